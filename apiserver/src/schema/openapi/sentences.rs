//! The descriptions of types and fields, inflated while a document is written and dropped after. build.rs takes them
//! from the k8s-openapi crate.

use std::io::Read as _;

use super::super::table::{TypeRef, types};

static COMPRESSED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sentences.bin"));

pub(super) struct Sentences {
    text: String,
    /// Start of each sentence; a type's own comes first, then those of its fields.
    starts: Vec<u32>,
    /// Place in `starts` of each type.
    of: Vec<u32>,
}

impl Sentences {
    pub(super) fn read() -> Self {
        let mut text = String::new();
        flate2::read::ZlibDecoder::new(COMPRESSED)
            .read_to_string(&mut text)
            .expect("build.rs packed it");
        let mut starts = vec![0];
        starts.extend(
            text.bytes()
                .enumerate()
                .filter(|(_, b)| *b == 0)
                .map(|(at, _)| at as u32 + 1),
        );
        let mut of = Vec::with_capacity(TypeRef::count());
        let mut next = 0;
        for ty in types() {
            of.push(next);
            next += 1 + ty.fields().len() as u32;
        }
        Sentences { text, starts, of }
    }

    fn at(&self, place: usize) -> &str {
        let start = self.starts[place] as usize;
        let end = self
            .starts
            .get(place + 1)
            .map_or(self.text.len(), |next| *next as usize - 1);
        &self.text[start..end]
    }

    pub(super) fn of_type(&self, ty: TypeRef) -> &str {
        self.at(self.of[ty.index()] as usize)
    }

    /// Of the field at a place among the type's fields.
    pub(super) fn of_field(&self, ty: TypeRef, place: usize) -> &str {
        self.at(self.of[ty.index()] as usize + 1 + place)
    }
}
