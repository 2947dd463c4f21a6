//! One object as an informer keeps it: shared bytes and facts, and its typed form while somebody holds it.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::facts::Facts;

/// An object of kind `K`. Its facts are fields (`entry.name`); the typed form is decoded when asked for.
pub struct Entry<K> {
    facts: Facts,
    body: Body,
    typed: OnceLock<Arc<Slot<K>>>,
}

/// The bytes are not an object of the kind that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("decoding {key}")]
pub struct DecodeError {
    key: String,
    #[source]
    cause: serde_json::Error,
}

/// An object's JSON, in the pieces in which it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Body {
    pub(super) head: Bytes,
    pub(super) middle: Middle,
    pub(super) tail: Bytes,
}

/// The piece between the shared ones. Almost always it follows from the revision, and is not kept.
#[derive(Debug, Clone, Default)]
pub(super) enum Middle {
    #[default]
    Nothing,
    /// `"resourceVersion":"42",`
    Member,
    /// `42`
    Digits,
    Other(Bytes),
}

impl<K> Deref for Entry<K> {
    type Target = Facts;
    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl<K> fmt::Debug for Entry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key())
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl<K> Entry<K> {
    pub(super) fn new(facts: Facts, body: Body) -> Self {
        Entry {
            facts,
            body,
            typed: OnceLock::new(),
        }
    }

    /// An object that no informer brought, of its JSON.
    pub fn local(json: Bytes) -> Result<Self, DecodeError> {
        let facts = super::facts::extract(&json, |word| Arc::from(word)).map_err(|cause| DecodeError {
            key: "a local object".to_owned(),
            cause,
        })?;
        let body = Body {
            head: json,
            ..Body::default()
        };
        Ok(Entry::new(facts, body))
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The object as JSON.
    pub fn bytes(&self) -> Bytes {
        match self.body.middle {
            Middle::Nothing => self.body.head.clone(),
            _ => self.body.join(self.facts.revision).into(),
        }
    }

    /// Decodes only what `T` names: a struct with a few fields costs a fraction of the whole object.
    pub fn view<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        let decoded = match self.body.middle {
            Middle::Nothing => serde_json::from_slice(&self.body.head),
            _ => serde_json::from_slice(&self.body.join(self.facts.revision)),
        };
        decoded.map_err(|cause| DecodeError { key: self.key(), cause })
    }
}

impl<K: DeserializeOwned + Send + Sync + 'static> Entry<K> {
    /// The typed object. It is decoded once for all who hold it at the same time and forgotten after the last: typed
    /// objects are many times larger than their bytes.
    pub fn typed(&self) -> Result<Arc<K>, DecodeError> {
        let slot = self.typed.get_or_init(Arc::default);
        let mut weak = slot.0.lock().expect("no holder of this lock panics");
        if let Some(typed) = weak.upgrade() {
            return Ok(typed);
        }
        let typed: Arc<K> = Arc::new(self.view()?);
        *weak = Arc::downgrade(&typed);
        drop(weak);
        remember(slot.clone());
        Ok(typed)
    }
}

impl Body {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Body {
            head: bytes,
            ..Body::default()
        }
    }

    /// Recognises the middle by the revision, which was read from the whole.
    pub(super) fn settle(&mut self, revision: u64) {
        let Middle::Other(bytes) = &self.middle else { return };
        for middle in [Middle::Member, Middle::Digits] {
            let mut text = Vec::new();
            middle.write(revision, &mut text);
            if text == *bytes {
                self.middle = middle;
                return;
            }
        }
    }

    fn join(&self, revision: u64) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.head.len() + self.tail.len() + 48);
        self.write(revision, &mut whole);
        whole
    }

    pub(super) fn write(&self, revision: u64, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.head);
        self.middle.write(revision, into);
        into.extend_from_slice(&self.tail);
    }
}

impl Middle {
    fn write(&self, revision: u64, into: &mut Vec<u8>) {
        use std::io::Write;
        let written = match self {
            Middle::Nothing => Ok(()),
            Middle::Member => write!(into, "\"resourceVersion\":\"{revision}\","),
            Middle::Digits => write!(into, "{revision}"),
            Middle::Other(bytes) => into.write_all(bytes),
        };
        written.expect("a vector takes all that is written");
    }
}

struct Slot<K>(Mutex<Weak<K>>);

impl<K> Default for Slot<K> {
    fn default() -> Self {
        Slot(Mutex::new(Weak::new()))
    }
}

trait Forget: Send + Sync {
    fn forget(&self);
}

impl<K: Send + Sync> Forget for Slot<K> {
    fn forget(&self) {
        *self.0.lock().expect("no holder of this lock panics") = Weak::new();
    }
}

/// A weak reference keeps the allocation of a dropped object (2 KB of a Pod), so only this many may be left behind.
const REMEMBERED: usize = 256;
static REMEMBER: Mutex<VecDeque<Arc<dyn Forget>>> = Mutex::new(VecDeque::new());

fn remember(slot: Arc<dyn Forget>) {
    let oldest = {
        let mut recent = REMEMBER.lock().expect("no holder of this lock panics");
        recent.push_back(slot);
        if recent.len() > REMEMBERED {
            recent.pop_front()
        } else {
            None
        }
    };
    if let Some(oldest) = oldest {
        oldest.forget();
    }
}
