//! `metadata.managedFields`: who owns what. Semantics: apimachinery/pkg/util/managedfields/internal (1.36).

use serde_json::{Map, Value};

use super::set::Set;

/// So many managers of updates at most, as upstream has it; older ones become one.
const UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Whose fields they are. An applier is the same in every version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) subresource: String,
    pub(super) api_version: String,
}

impl Owner {
    pub(super) fn is(&self, other: &Owner) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
    /// As refusals name it.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) owner: Owner,
    pub(super) time: Option<String>,
    pub(super) set: Set,
}

/// All entries of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Managed(pub Vec<Entry>);

impl Managed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(super) fn take(&mut self, owner: &Owner) -> Option<Entry> {
        let at = self.0.iter().position(|entry| entry.owner.is(owner))?;
        Some(self.0.remove(at))
    }
    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|entry| !entry.set.is_empty());
    }

    /// What stands in metadata. Absent is empty.
    pub(super) fn decode(value: Option<&Value>) -> Result<Managed, String> {
        let mut managed = Managed::default();
        let entries = match value {
            None | Some(Value::Null) => return Ok(managed),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err("managedFields must be a list".into()),
        };
        for (number, entry) in entries.iter().enumerate() {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or("");
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".into()),
            };
            if text("apiVersion").is_empty() {
                return Err("apiVersion must not be empty".into());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {number}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {number}")),
            }
            let owner = Owner {
                manager: text("manager").to_owned(),
                operation,
                subresource: text("subresource").to_owned(),
                api_version: text("apiVersion").to_owned(),
            };
            let set = Set::decode(entry.get("fieldsV1").unwrap_or(&Value::Null))?;
            managed.take(&owner);
            managed.0.push(Entry {
                owner,
                time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
                set,
            });
        }
        Ok(managed)
    }

    /// The list for metadata: appliers first, then by age.
    pub(super) fn encode(mut self) -> Vec<Value> {
        self.0.sort_by(|a, b| {
            (
                a.owner.operation,
                &a.time,
                &a.owner.manager,
                &a.owner.api_version,
                &a.owner.subresource,
            )
                .cmp(&(
                    b.owner.operation,
                    &b.time,
                    &b.owner.manager,
                    &b.owner.api_version,
                    &b.owner.subresource,
                ))
        });
        self.0.into_iter().map(Entry::encode).collect()
    }

    /// Merges the oldest updates, by version, until there are no more than upstream keeps.
    pub(super) fn cap(&mut self) {
        let mut updates: Vec<usize> = (0..self.0.len())
            .filter(|i| self.0[*i].owner.operation == Operation::Update)
            .collect();
        if updates.len() <= UPDATE_MANAGERS {
            return;
        }
        updates.sort_by(|a, b| {
            let (a, b) = (&self.0[*a], &self.0[*b]);
            (&a.time, &a.owner.manager, &a.owner.subresource, &a.owner.api_version).cmp(&(
                &b.time,
                &b.owner.manager,
                &b.owner.subresource,
                &b.owner.api_version,
            ))
        });
        let mut left = updates.len();
        let mut buckets: Vec<usize> = Vec::new();
        let mut gone: Vec<usize> = Vec::new();
        for at in updates {
            if left <= UPDATE_MANAGERS {
                break;
            }
            let version = self.0[at].owner.api_version.clone();
            match buckets
                .iter()
                .find(|bucket| self.0[**bucket].owner.api_version == version)
            {
                // The first of a version becomes the bucket only when a second one falls into it.
                None => buckets.push(at),
                Some(bucket) => {
                    let bucket = *bucket;
                    let (set, time) = (std::mem::take(&mut self.0[at].set), self.0[at].time.clone());
                    let into = &mut self.0[bucket];
                    into.set.add(set);
                    into.time = time;
                    into.owner.manager = ANCIENT.into();
                    into.owner.subresource = String::new();
                    gone.push(at);
                    left -= 1;
                }
            }
        }
        gone.sort_unstable();
        for at in gone.into_iter().rev() {
            self.0.remove(at);
        }
    }
}

impl Entry {
    fn encode(self) -> Value {
        let mut map = Map::new();
        let Owner {
            manager,
            operation,
            subresource,
            api_version,
        } = self.owner;
        map.insert("apiVersion".into(), api_version.into());
        map.insert("fieldsType".into(), "FieldsV1".into());
        map.insert("fieldsV1".into(), self.set.encode());
        if !manager.is_empty() {
            map.insert("manager".into(), manager.into());
        }
        map.insert("operation".into(), operation.name().into());
        if !subresource.is_empty() {
            map.insert("subresource".into(), subresource.into());
        }
        if let Some(time) = self.time {
            map.insert("time".into(), time.into());
        }
        Value::Object(map)
    }
}
