//! One message in, what to do about it out. Pure but for the zone that it reads.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

use crate::zone::{Answer, Zone};

/// The longest message over UDP that no network has to cut.
const LONGEST: u16 = 1232;

/// How a message came and how its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Udp,
    Tcp,
}

/// What becomes of a message.
#[derive(Debug)]
pub(crate) enum Step {
    /// Not a question, or not even a message.
    Ignore,
    Reply(Vec<u8>),
    /// Somebody else's name.
    Forward(Box<Request>),
    /// Our name stands for this other one, which has to be asked for.
    Chase {
        request: Box<Request>,
        record: Box<Record>,
        target: Box<Name>,
    },
}

/// A question that was understood.
#[derive(Debug)]
pub(crate) struct Request {
    message: Message,
    via: Via,
}

/// Decides about a message. `zone` is `None` until the cluster is known.
pub(crate) fn step(bytes: &[u8], via: Via, zone: Option<&Zone>, holds: impl Fn(&Name) -> bool, turn: usize) -> Step {
    let message = match Message::from_vec(bytes) {
        Ok(message) => message,
        Err(_) if bytes.len() >= 12 && bytes[2] & 0x80 == 0 => {
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            return reply(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr));
        }
        Err(_) => return Step::Ignore,
    };
    if message.metadata.message_type == MessageType::Response {
        return Step::Ignore;
    }
    let request = Box::new(Request { message, via });
    if request.message.metadata.op_code != OpCode::Query {
        return request.error(ResponseCode::NotImp);
    }
    if request.message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return request.error(ResponseCode::BADVERS);
    }
    let [query] = &request.message.queries[..] else {
        return request.error(ResponseCode::FormErr);
    };
    if query.query_class() != DNSClass::IN || matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return request.error(ResponseCode::Refused);
    }
    let Some(zone) = zone else {
        // Saying that a name is missing would be a lie, and be remembered.
        return if holds(query.name()) {
            request.error(ResponseCode::ServFail)
        } else {
            Step::Forward(request)
        };
    };
    match zone.answer(query, turn) {
        Answer::Elsewhere => Step::Forward(request),
        Answer::Alias { record, .. } if query.query_type() == RecordType::CNAME => {
            request.records(vec![*record], vec![])
        }
        Answer::Alias { record, target } => {
            match zone.answer(&Query::query((*target).clone(), query.query_type()), turn) {
                Answer::Elsewhere => Step::Chase {
                    request,
                    record,
                    target,
                },
                // A name of the cluster that stands for another one is as far as we follow.
                Answer::Records {
                    mut answers,
                    additionals,
                } => {
                    answers.insert(0, *record);
                    request.records(answers, additionals)
                }
                Answer::Alias { record: next, .. } => request.records(vec![*record, *next], vec![]),
                Answer::Empty | Answer::Missing => request.records(vec![*record], vec![]),
            }
        }
        Answer::Records { answers, additionals } => request.records(answers, additionals),
        Answer::Empty => request.absent(ResponseCode::NoError, zone),
        Answer::Missing => request.absent(ResponseCode::NXDomain, zone),
    }
}

impl Request {
    pub(crate) fn dnssec(&self) -> bool {
        self.message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    pub(crate) fn unchecked(&self) -> bool {
        self.message.metadata.checking_disabled
    }

    pub(crate) fn edns(&self) -> bool {
        self.message.edns.is_some()
    }

    pub(crate) fn via(&self) -> Via {
        self.via
    }

    /// The same question about another name.
    pub(crate) fn about(&self, name: &Name) -> Option<Vec<u8>> {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name.clone(), self.message.queries.first()?.query_type()));
        message.to_vec().ok()
    }

    /// Our record, followed by what others say about the name it stands for.
    pub(crate) fn chased(&self, record: Record, response: Option<&[u8]>) -> Vec<u8> {
        let mut response = response.and_then(|bytes| Message::from_vec(bytes).ok());
        let mut answers = vec![record];
        answers.extend(response.iter_mut().flat_map(|r| std::mem::take(&mut r.answers)));
        match self.records(answers, vec![]) {
            Step::Reply(bytes) => bytes,
            _ => Vec::new(),
        }
    }

    /// Says that nobody could answer.
    pub(crate) fn failure(&self) -> Vec<u8> {
        match self.error(ResponseCode::ServFail) {
            Step::Reply(bytes) => bytes,
            _ => Vec::new(),
        }
    }

    /// Says that the client has to ask over TCP.
    pub(crate) fn truncated(&self) -> Vec<u8> {
        match reply(&self.response(ResponseCode::NoError).truncate()) {
            Step::Reply(bytes) => bytes,
            _ => Vec::new(),
        }
    }

    fn response(&self, code: ResponseCode) -> Message {
        let asked = &self.message.metadata;
        let mut message = Message::response(asked.id, asked.op_code);
        message.metadata.recursion_desired = asked.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_queries(self.message.queries.iter().cloned());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(LONGEST);
            if code == ResponseCode::BADVERS {
                edns.set_rcode_high(code.high());
            }
            message.set_edns(edns);
        }
        message
    }

    fn error(&self, code: ResponseCode) -> Step {
        reply(&self.response(code))
    }

    fn absent(&self, code: ResponseCode, zone: &Zone) -> Step {
        let mut message = self.response(code);
        message.metadata.authoritative = true;
        message.add_authority(zone.authority());
        self.fit(&message)
    }

    fn records(&self, answers: Vec<Record>, additionals: Vec<Record>) -> Step {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.authoritative = true;
        message.add_answers(answers);
        message.add_additionals(additionals);
        self.fit(&message)
    }

    /// How long an answer may be.
    pub(crate) fn longest(&self) -> usize {
        match (self.via, &self.message.edns) {
            (Via::Tcp, _) => usize::from(u16::MAX),
            (Via::Udp, Some(edns)) => usize::from(edns.max_payload().clamp(512, LONGEST)),
            (Via::Udp, None) => 512,
        }
    }

    /// Leaves out what is only helpful, then says that the client has to ask over TCP.
    fn fit(&self, message: &Message) -> Step {
        let fits = |message: &Message| message.to_vec().ok().filter(|bytes| bytes.len() <= self.longest());
        if let Some(bytes) = fits(message) {
            return Step::Reply(bytes);
        }
        let mut shorter = message.clone();
        shorter.additionals.clear();
        match fits(&shorter) {
            Some(bytes) => Step::Reply(bytes),
            None => reply(&message.truncate()),
        }
    }
}

fn reply(message: &Message) -> Step {
    match message.to_vec() {
        Ok(bytes) => Step::Reply(bytes),
        Err(_) => Step::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;
    use crate::zone::{Endpoint, Entry};

    fn zone(endpoints: u8) -> Zone {
        let mut zone = Zone::new("cluster.local", None, vec![]).unwrap();
        let endpoint = |n| Endpoint {
            host: format!("db-{n}").into(),
            address: IpAddr::V4(Ipv4Addr::new(10, 244, 0, n)),
            ports: vec![].into(),
        };
        zone.set(
            "a",
            "db",
            Some(Entry::Headless {
                endpoints: (0..endpoints).map(endpoint).collect(),
            }),
        );
        zone.set(
            "a",
            "out",
            Some(Entry::External {
                target: "example.com".into(),
            }),
        );
        zone.set(
            "a",
            "in",
            Some(Entry::External {
                target: "db.a.svc.cluster.local".into(),
            }),
        );
        zone
    }

    fn question(name: &str) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    fn ask(message: &Message, via: Via, endpoints: u8) -> Step {
        let zone = zone(endpoints);
        step(&message.to_vec().unwrap(), via, Some(&zone), |_| true, 0)
    }

    #[track_caller]
    fn answered(step: Step) -> Message {
        match step {
            Step::Reply(bytes) => Message::from_vec(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers_carry_what_a_client_looks_at() {
        let response = answered(ask(&question("DB.a.svc.cluster.local."), Via::Udp, 2));
        assert_eq!(
            (response.metadata.id, response.metadata.response_code),
            (7, ResponseCode::NoError)
        );
        assert!(
            response.metadata.authoritative
                && response.metadata.recursion_available
                && response.metadata.recursion_desired
        );
        assert_eq!(response.answers.len(), 2);
        // The client's own spelling comes back.
        assert_eq!(response.queries[0].name().to_ascii(), "DB.a.svc.cluster.local.");
        assert!(response.edns.is_none());
    }

    #[test]
    fn missing_names_say_for_how_long() {
        let response = answered(ask(&question("x.a.svc.cluster.local."), Via::Udp, 0));
        assert_eq!(response.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(response.authorities[0].data.record_type(), RecordType::SOA);
        let response = answered(ask(&question("a.svc.cluster.local."), Via::Udp, 0));
        assert_eq!(
            (response.metadata.response_code, response.authorities.len()),
            (ResponseCode::NoError, 1)
        );
    }

    #[test]
    fn long_answers_are_cut_where_the_client_cannot_take_them() {
        let mut message = question("db.a.svc.cluster.local.");
        assert!(answered(ask(&message, Via::Udp, 40)).metadata.truncation);
        assert_eq!(answered(ask(&message, Via::Tcp, 200)).answers.len(), 200);
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
        let response = answered(ask(&message, Via::Udp, 40));
        assert_eq!((response.answers.len(), response.max_payload()), (40, 1232));
        assert!(answered(ask(&message, Via::Udp, 200)).metadata.truncation);
    }

    #[test]
    fn aliases_are_followed() {
        let response = answered(ask(&question("in.a.svc.cluster.local."), Via::Udp, 1));
        let kinds: Vec<_> = response.answers.iter().map(|r| r.data.record_type()).collect();
        assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
        match ask(&question("out.a.svc.cluster.local."), Via::Udp, 1) {
            Step::Chase {
                request,
                record,
                target,
            } => {
                assert_eq!(target.to_ascii(), "example.com.");
                let asked = Message::from_vec(&request.about(&target).unwrap()).unwrap();
                assert_eq!(asked.queries[0].name().to_ascii(), "example.com.");
                // Without an answer the alias alone is still true.
                let response = Message::from_vec(&request.chased(*record, None)).unwrap();
                assert_eq!(response.answers.len(), 1);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_question_gets_an_error_or_nothing() {
        let code = |message: &Message| answered(ask(message, Via::Udp, 0)).metadata.response_code;
        let mut notify = question("a.");
        notify.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&notify), ResponseCode::NotImp);
        let mut transfer = question("cluster.local.");
        transfer.queries[0].set_query_type(RecordType::AXFR);
        assert_eq!(code(&transfer), ResponseCode::Refused);
        let mut none = question("a.");
        none.queries.clear();
        assert_eq!(code(&none), ResponseCode::FormErr);
        let mut response = question("a.");
        response.metadata.message_type = MessageType::Response;
        assert!(matches!(ask(&response, Via::Udp, 0), Step::Ignore));
        assert!(matches!(ask(&question("example.com."), Via::Udp, 0), Step::Forward(_)));
        let mut new = question("db.a.svc.cluster.local.");
        let mut edns = Edns::new();
        edns.set_version(1);
        new.set_edns(edns);
        // 16 has two names.
        assert_eq!(u16::from(code(&new)), 16);
    }

    #[test]
    fn nothing_is_said_about_the_cluster_before_it_is_known() {
        let asked = |name: &str| {
            let ours = |n: &Name| n.to_ascii().ends_with("cluster.local.");
            step(&question(name).to_vec().unwrap(), Via::Udp, None, ours, 0)
        };
        assert_eq!(
            answered(asked("db.a.svc.cluster.local.")).metadata.response_code,
            ResponseCode::ServFail
        );
        assert!(matches!(asked("example.com."), Step::Forward(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            step(&bytes, Via::Udp, Some(&zone(3)), |_| true, 0);
        }

        #[test]
        fn any_damaged_question_is_survived(at in 0usize..60, byte: u8, cut in 0usize..60) {
            let mut message = question("db-1.db.a.svc.cluster.local.");
            message.set_edns(Edns::new());
            let mut bytes = message.to_vec().unwrap();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(bytes.len().saturating_sub(cut / 2));
            step(&bytes, Via::Tcp, Some(&zone(3)), |_| true, 1);
        }
    }
}
