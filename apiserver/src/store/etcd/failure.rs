//! What etcd's refusals mean. gRPC codes are too coarse, so it is their texts, which etcd's own clients match on too.

use tonic::Code;

use crate::store::Error;

/// Why a call did not do what was asked.
#[derive(Debug)]
pub(super) enum Failure {
    Etcd(etcd_client::Error),
    /// Nobody answered in time.
    Late,
    /// It was answered, and the answer is no.
    Store(Error),
}

/// What a failure says, as far as anybody acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Compacted,
    Future,
    Full,
    TooLarge,
    LeaseGone,
    /// This member cannot say, another may.
    Elsewhere,
    Other,
}

impl Failure {
    pub(super) fn said(&self) -> Said {
        let Failure::Etcd(etcd_client::Error::GRpcStatus(status)) = self else {
            return match self {
                Failure::Late | Failure::Etcd(etcd_client::Error::TransportError(_)) => Said::Elsewhere,
                Failure::Etcd(_) | Failure::Store(_) => Said::Other,
            };
        };
        let text = status.message();
        match status.code() {
            _ if text.contains("has been compacted") => Said::Compacted,
            _ if text.contains("future revision") => Said::Future,
            _ if text.contains("database space exceeded") => Said::Full,
            _ if text.contains("request is too large") || text.contains("message larger than max") => Said::TooLarge,
            _ if text.contains("lease not found") => Said::LeaseGone,
            Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled | Code::Internal => {
                Said::Elsewhere
            }
            _ => Said::Other,
        }
    }

    /// Whether the member surely never saw the request, so that a write may be sent again.
    pub(super) fn was_not_sent(&self) -> bool {
        let Failure::Etcd(error) = self else { return false };
        let status = match error {
            etcd_client::Error::GRpcStatus(status) => status,
            _ => return false,
        };
        // A member without a leader refuses before it proposes.
        status.message() == "etcdserver: no leader" || causes(status).any(|cause| cause.is::<tonic::ConnectError>())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match (failure.said(), failure) {
            (_, Failure::Store(error)) => error,
            (Said::Full, Failure::Etcd(error)) => {
                Error::Full(std::io::Error::new(std::io::ErrorKind::StorageFull, error))
            }
            (Said::TooLarge, _) => Error::TooLarge,
            (_, Failure::Etcd(error)) => Error::Unavailable(error_of(error)),
            (_, Failure::Late) => Error::Unavailable("etcd did not answer in time".into()),
        }
    }
}

/// etcd-client hides what its errors come from.
fn error_of(error: etcd_client::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.into(),
        etcd_client::Error::TransportError(error) => error.into(),
        other => other.into(),
    }
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// An error with all that it comes from, in one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let more = cause.to_string();
        if !text.contains(&more) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&more);
        }
    }
    text
}
