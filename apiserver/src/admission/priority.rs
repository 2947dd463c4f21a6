//! Priority: a pod's class becomes its number. After plugin/pkg/admission/priority (1.36).

use futures::future::BoxFuture;
use serde_json::Value;

use super::sources::Source;
use super::{Admit, Attributes, Operation};
use crate::object::Object;
use crate::status::Status;

const PREEMPT: &str = "PreemptLowerPriority";
/// The classes that every cluster has: known before their objects are.
const SYSTEM: [(&str, i64); 2] = [
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

#[derive(Debug)]
pub(super) struct Priority {
    pub(super) classes: Source,
}

/// What a pod gets of its class.
struct Class {
    name: String,
    value: i64,
    policy: String,
}

impl Class {
    fn read(class: &Object) -> Class {
        let policy = class.str_at(&["preemptionPolicy"]);
        Class {
            name: class.name().to_owned(),
            value: class.at(&["value"]).and_then(Value::as_i64).unwrap_or(0),
            policy: if policy.is_empty() { PREEMPT } else { policy }.to_owned(),
        }
    }
}

impl Priority {
    /// The class that is marked as default: the lowest of several, as upstream decides. Without one: zero and no name.
    fn default_class(&self) -> Class {
        self.classes
            .list("")
            .iter()
            .map(|item| item.object())
            .filter(|class| class.at(&["globalDefault"]) == Some(&Value::Bool(true)))
            .map(|class| Class::read(&class))
            .min_by_key(|class| class.value)
            .unwrap_or(Class {
                name: String::new(),
                value: 0,
                policy: PREEMPT.into(),
            })
    }

    async fn class_of(&self, attributes: &Attributes<'_>, pod: &Object) -> Result<Class, Status> {
        let name = pod.str_at(&["spec", "priorityClassName"]);
        if name.is_empty() {
            return Ok(self.default_class());
        }
        if let Some((name, value)) = SYSTEM.iter().find(|(system, _)| *system == name) {
            return Ok(Class {
                name: (*name).to_owned(),
                value: *value,
                policy: PREEMPT.into(),
            });
        }
        match self.classes.get("", name).await? {
            Some(class) => Ok(Class::read(&class)),
            None => {
                let why = format!("no PriorityClass with name {name} was found");
                Err(attributes.forbidden(Some(pod), &why))
            }
        }
    }
}

impl Admit for Priority {
    fn mutate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: &'a mut Object,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(async move {
            if !attributes.is("", "pods") || attributes.operation != Operation::Create {
                return Ok(());
            }
            let class = self.class_of(attributes, new).await?;
            let refuse = |what: &str, said: String, computed: String| {
                let why = format!(
                    "the {what} ({said}) must not be provided in pod spec; priority admission controller computed \
                     {computed} from the given PriorityClass name"
                );
                Err(attributes.forbidden(Some(new), &why))
            };
            if let Some(said) = new.at(&["spec", "priority"])
                && said.as_i64() != Some(class.value)
            {
                return refuse("integer value of priority", said.to_string(), class.value.to_string());
            }
            let said = new.str_at(&["spec", "preemptionPolicy"]);
            if !said.is_empty() && said != class.policy {
                return refuse("string value of PreemptionPolicy", said.to_owned(), class.policy);
            }
            let spec = new.entry("spec");
            if !class.name.is_empty() {
                spec.insert("priorityClassName".into(), class.name.into());
            }
            spec.insert("priority".into(), class.value.into());
            spec.insert("preemptionPolicy".into(), class.policy.into());
            Ok(())
        })
    }

    fn validate<'a>(
        &'a self,
        attributes: &'a Attributes<'a>,
        new: Option<&'a Object>,
        _old: Option<&'a Object>,
    ) -> BoxFuture<'a, Result<(), Status>> {
        let is_default = |class: &Object| class.at(&["globalDefault"]) == Some(&Value::Bool(true));
        let other = new
            .filter(|class| attributes.is("scheduling.k8s.io", "priorityclasses") && is_default(class))
            .and_then(|class| {
                let others = self.classes.list("");
                let mut others = others.iter().filter(|item| *item.facts.name != *class.name());
                others.find(|item| is_default(&item.object())).cloned()
            });
        Box::pin(std::future::ready(match other {
            Some(other) => {
                let name = &other.facts.name;
                let why = format!("PriorityClass {name} is already marked as default. Only one default can exist");
                Err(attributes.forbidden(new, &why))
            }
            None => Ok(()),
        }))
    }
}
