//! The table of facts, read in place. `build.rs` packs `facts.txt` into records; nothing here allocates or is built at
//! start. A [`TypeRef`], [`Field`] or [`Ty`] is a number: copy it freely.
//!
//! The form of `facts.txt`: `= <package>.<Type> [gvk=group/version/Kind] [map=atomic]` opens a type, a line
//! `<json name> <protobuf number or -> <type> <words>` is a field (`~` inlines a struct), `! <type> a|b` names the
//! values of an enumeration. A type is a word (`string`, `int32`, `quantity` …), `@` a type of the table, `[]` list of,
//! `{}` map to, `*` pointer. Words: `omit` (omitempty), `omitzero`, `req`, `list=`, `keys=`, `map=`, `patch=`, `mkey=`,
//! `default=`. A `*` in place of a group stands for the types of meta/v1 that every group serves.

use std::fmt;

static DATA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/facts.bin"));

const TYPES: usize = 0;
const FIELDS: usize = 1;
const SHAPES: usize = 2;
const KINDS: usize = 3;
const STRINGS: usize = 4;

const TYPE_BYTES: usize = 24;
const FIELD_BYTES: usize = 24;
const SHAPE_BYTES: usize = 12;
const KIND_BYTES: usize = 16;

const POINTER: u16 = 1;
const OMIT: u16 = 2;
const OMIT_ZERO: u16 = 4;
const REQUIRED: u16 = 8;
const ALWAYS: u16 = 16;
const ATOMIC_MAP: u16 = 32;
const INLINE: u16 = 64;
const GRANULAR: u16 = 128;

/// The packed table itself, for hashes.
pub(super) fn data() -> &'static [u8] {
    DATA
}

fn u16_at(at: usize) -> u16 {
    u16::from_le_bytes([DATA[at], DATA[at + 1]])
}

fn u32_at(at: usize) -> u32 {
    u32::from_le_bytes([DATA[at], DATA[at + 1], DATA[at + 2], DATA[at + 3]])
}

fn section(number: usize) -> usize {
    u32_at(4 * number) as usize
}

fn text(offset: u32) -> &'static str {
    let at = section(STRINGS) + offset as usize;
    let length = usize::from(u16_at(at));
    std::str::from_utf8(&DATA[at + 2..at + 2 + length]).expect("the table is UTF-8")
}

fn bytes_at(offset: u32) -> &'static [u8] {
    let at = section(STRINGS) + offset as usize;
    &DATA[at + 2..at + 2 + usize::from(u16_at(at))]
}

/// A struct type of the API.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeRef(u16);

impl fmt::Debug for TypeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// The type that a group, version and kind name. Kinds of meta/v1 (`DeleteOptions`, `Status`, `Table` …) are found under
/// any group and version.
pub fn type_of(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    find_kind(group, version, kind).or_else(|| find_kind("", "v1", kind).filter(|found| found.is_meta()))
}

fn find_kind(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    let start = section(KINDS);
    let count = (section(STRINGS) - start) / KIND_BYTES;
    let key = |i: usize| {
        let at = start + i * KIND_BYTES;
        (text(u32_at(at)), text(u32_at(at + 4)), text(u32_at(at + 8)))
    };
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        match key(middle).cmp(&(group, version, kind)) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => {
                return Some(TypeRef(u32_at(start + middle * KIND_BYTES + 12) as u16));
            }
        }
    }
    None
}

/// Every type, in the order of their ids.
pub fn types() -> impl Iterator<Item = TypeRef> {
    (0..TypeRef::count() as u16).map(TypeRef)
}

impl TypeRef {
    pub fn count() -> usize {
        (section(FIELDS) - section(TYPES)) / TYPE_BYTES
    }
    /// By its id in the table, e.g. `core/v1.PodSpec`.
    pub fn by_id(id: &str) -> Option<TypeRef> {
        let (mut low, mut high) = (0u16, Self::count() as u16);
        while low < high {
            let middle = (low + high) / 2;
            match TypeRef(middle).id().cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(TypeRef(middle)),
            }
        }
        None
    }
    fn at(self) -> usize {
        section(TYPES) + usize::from(self.0) * TYPE_BYTES
    }
    /// Place in the table, for arrays that go beside it.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
    /// `core/v1.PodSpec`.
    pub fn id(self) -> &'static str {
        text(u32_at(self.at()))
    }
    /// `PodSpec`.
    pub fn name(self) -> &'static str {
        let id = self.id();
        id.rsplit('.').next().unwrap_or(id)
    }
    /// `core/v1`.
    pub fn package(self) -> &'static str {
        let id = self.id();
        id.rsplit_once('.').map_or("", |(package, _)| package)
    }
    /// Group and version, for types that can be an object of their own.
    pub fn group_version(self) -> Option<(&'static str, &'static str)> {
        let at = self.at();
        (u32_at(at + 20) & 2 != 0).then(|| (text(u32_at(at + 12)), text(u32_at(at + 16))))
    }
    /// One of the kinds of meta/v1 that every group serves.
    pub fn is_meta(self) -> bool {
        u32_at(self.at() + 20) & 4 != 0
    }
    /// Applied as one: no field of it has an owner of its own.
    pub fn is_atomic(self) -> bool {
        u32_at(self.at() + 20) & 1 != 0
    }
    /// The JSON fields by name, those of inlined structs included.
    pub fn fields(self) -> impl DoubleEndedIterator<Item = Field> + ExactSizeIterator {
        let at = self.at();
        let (start, count) = (u16_at(at + 4), u16_at(at + 6));
        (start..start + count).map(Field)
    }
    /// The protobuf fields by number; an inlined struct is one field here.
    pub fn wire(self) -> impl DoubleEndedIterator<Item = Field> + ExactSizeIterator {
        let at = self.at();
        let (start, count) = (u16_at(at + 8), u16_at(at + 10));
        (start..start + count).map(Field)
    }
    /// Place of a field among [`TypeRef::fields`].
    pub(super) fn position(self, field: Field) -> u32 {
        u32::from(field.0 - u16_at(self.at() + 4))
    }
    /// `JSONSchemaProps`, which the unions of apiextensions stand for.
    pub(super) fn schema() -> TypeRef {
        TypeRef::by_id("apiextensions/v1.JSONSchemaProps").expect("a type of the table")
    }
    /// The field with a JSON name. Case matters, as it does to the server.
    pub fn field(self, name: &str) -> Option<Field> {
        let at = self.at();
        let (mut low, mut high) = (u16_at(at + 4), u16_at(at + 4) + u16_at(at + 6));
        while low < high {
            let middle = low + (high - low) / 2;
            match Field(middle).name_bytes().cmp(name.as_bytes()) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(Field(middle)),
            }
        }
        None
    }
}

/// A field of a type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Field(u16);

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.name(), self.ty())
    }
}

/// How a list is merged on apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// The facts say nothing, which means as one.
    Unset,
    Atomic,
    Set,
    /// By [`Field::keys`].
    Map,
}

/// What a strategic merge patch does to a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Patch {
    /// Lists merge (by [`Field::merge_key`], or as sets of scalars); otherwise they are replaced.
    pub merge: bool,
    /// `$retainKeys` may clear what the patch does not name.
    pub retain_keys: bool,
    /// Objects are replaced, not merged.
    pub replace: bool,
}

impl Field {
    fn at(self) -> usize {
        section(FIELDS) + usize::from(self.0) * FIELD_BYTES
    }
    fn flag(self, flag: u16) -> bool {
        u16_at(self.at() + 8) & flag != 0
    }
    fn name_bytes(self) -> &'static [u8] {
        bytes_at(u32_at(self.at()))
    }
    /// The JSON name; `~` for an inlined struct in [`TypeRef::wire`].
    pub fn name(self) -> &'static str {
        text(u32_at(self.at()))
    }
    pub fn ty(self) -> Ty {
        Ty(u16_at(self.at() + 4))
    }
    /// The protobuf number; 0 where the field is not on that wire.
    pub fn number(self) -> u32 {
        u32::from(u16_at(self.at() + 6))
    }
    /// A nil-able Go field: zero is a value.
    pub fn is_pointer(self) -> bool {
        self.flag(POINTER)
    }
    /// Vanishes when empty.
    pub fn is_omitted(self) -> bool {
        self.flag(OMIT)
    }
    /// Vanishes when zero, structs too.
    pub fn is_omitted_zero(self) -> bool {
        self.flag(OMIT_ZERO)
    }
    /// Stands in every object that the server writes.
    pub fn is_always(self) -> bool {
        self.flag(ALWAYS)
    }
    /// OpenAPI's `required`.
    pub fn is_required(self) -> bool {
        self.flag(REQUIRED)
    }
    pub fn is_inline(self) -> bool {
        self.flag(INLINE)
    }
    /// A map or struct that is applied as one.
    pub fn is_atomic_map(self) -> bool {
        self.flag(ATOMIC_MAP)
    }
    /// Merged by field though its type is applied as one elsewhere.
    pub fn is_granular(self) -> bool {
        self.flag(GRANULAR)
    }
    pub fn list_type(self) -> ListType {
        match DATA[self.at() + 10] {
            1 => ListType::Atomic,
            2 => ListType::Set,
            3 => ListType::Map,
            _ => ListType::Unset,
        }
    }
    /// The keys of a [`ListType::Map`].
    pub fn keys(self) -> impl Iterator<Item = &'static str> {
        text(u32_at(self.at() + 12)).split(',').filter(|k| !k.is_empty())
    }
    pub fn patch(self) -> Patch {
        let code = DATA[self.at() + 11];
        Patch {
            merge: code == 1 || code == 3,
            retain_keys: code == 2 || code == 3,
            replace: code == 4,
        }
    }
    /// The key by which a strategic merge patch matches the list's objects.
    pub fn merge_key(self) -> Option<&'static str> {
        Some(text(u32_at(self.at() + 16))).filter(|k| !k.is_empty())
    }
    /// The default as JSON text, where the facts have one.
    pub fn default(self) -> Option<&'static str> {
        Some(text(u32_at(self.at() + 20))).filter(|d| !d.is_empty())
    }
}

/// The type of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ty(u16);

impl fmt::Debug for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shape(), f)
    }
}

/// What a value looks like in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    String,
    /// Base64.
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    Duration,
    /// An object of any kind (RawExtension).
    Raw,
    /// Any JSON, a type of apiextensions.
    Json,
    /// Any JSON, not on the protobuf wire.
    Any,
    /// managedFields' FieldsV1.
    Fields,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrStrings,
    /// A list of strings that is a message of its own in protobuf.
    Items,
    Object(TypeRef),
    List(Ty),
    Map(Ty),
}

impl Ty {
    fn at(self) -> usize {
        section(SHAPES) + usize::from(self.0) * SHAPE_BYTES
    }
    pub fn shape(self) -> Shape {
        let at = self.at();
        let argument = u16_at(at + 2);
        match DATA[at] {
            0 => Shape::String,
            1 => Shape::Bytes,
            2 => Shape::Bool,
            3 => Shape::Int32,
            4 => Shape::Int64,
            5 => Shape::Double,
            6 => Shape::Quantity,
            7 => Shape::IntOrString,
            8 => Shape::Time,
            9 => Shape::MicroTime,
            10 => Shape::Duration,
            11 => Shape::Raw,
            12 => Shape::Json,
            13 => Shape::Any,
            14 => Shape::Fields,
            15 => Shape::SchemaOrArray,
            16 => Shape::SchemaOrBool,
            17 => Shape::SchemaOrStrings,
            18 => Shape::Items,
            19 => Shape::Object(TypeRef(argument)),
            20 => Shape::List(Ty(argument)),
            _ => Shape::Map(Ty(argument)),
        }
    }
    /// The struct type, of the value itself or of the items of a list or map.
    pub fn object(self) -> Option<TypeRef> {
        match self.shape() {
            Shape::Object(ty) => Some(ty),
            Shape::List(inner) | Shape::Map(inner) => inner.object(),
            _ => None,
        }
    }
    /// The values of an enumeration.
    pub fn values(self) -> impl Iterator<Item = &'static str> {
        let values = text(u32_at(self.at() + 8));
        values
            .split('|')
            .filter(move |_| !values.is_empty())
            .map(|v| if v == "\"\"" { "" } else { v })
    }
    /// As Go prints a struct type.
    pub(super) fn go_of(ty: TypeRef) -> &'static str {
        short(ty.id())
    }
    /// As Go prints the type, which error messages quote.
    pub fn go(self) -> String {
        let at = self.at();
        let name = text(u32_at(at + 4));
        if !name.is_empty() {
            return short(name).to_owned();
        }
        match self.shape() {
            Shape::String => "string".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Bool => "bool".into(),
            Shape::Int32 => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Double => "float64".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::Duration => "v1.Duration".into(),
            Shape::Raw => "runtime.RawExtension".into(),
            Shape::Json => "v1.JSON".into(),
            Shape::Any => "interface {}".into(),
            Shape::Fields => "v1.FieldsV1".into(),
            Shape::SchemaOrArray => "v1.JSONSchemaPropsOrArray".into(),
            Shape::SchemaOrBool => "v1.JSONSchemaPropsOrBool".into(),
            Shape::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray".into(),
            Shape::Items => "[]string".into(),
            Shape::Object(ty) => short(ty.id()).to_owned(),
            Shape::List(inner) => format!("[]{}", inner.go()),
            Shape::Map(inner) => format!("map[string]{}", inner.go()),
        }
    }
}

/// `core/v1.PodSpec` → `v1.PodSpec`.
fn short(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_of_the_table_can_be_read() {
        let mut fields = 0;
        for ty in types() {
            assert_eq!(TypeRef::by_id(ty.id()), Some(ty));
            for field in ty.fields().chain(ty.wire()) {
                assert!(!field.name().is_empty());
                assert!(!format!("{field:?}{}", field.ty().go()).is_empty());
                let _ = (
                    field.keys().count(),
                    field.patch(),
                    field.merge_key(),
                    field.list_type(),
                );
                assert!(
                    field
                        .default()
                        .is_none_or(|d| serde_json::from_str::<serde_json::Value>(d).is_ok()),
                    "{field:?}"
                );
                fields += 1;
            }
            for field in ty.fields() {
                assert_eq!(ty.field(field.name()), Some(field));
            }
            if let Some((group, version)) = ty.group_version() {
                assert_eq!(type_of(group, version, ty.name()), Some(ty));
            }
        }
        assert!(fields > 7000, "{fields}");
    }

    #[test]
    fn facts_of_a_container() {
        let pod = type_of("", "v1", "Pod").unwrap();
        assert_eq!(pod.id(), "core/v1.Pod");
        let spec = pod.field("spec").unwrap().ty().object().unwrap();
        let containers = spec.field("containers").unwrap();
        assert_eq!(containers.merge_key(), Some("name"));
        assert!(containers.patch().merge && containers.is_required());
        let ports = containers.ty().object().unwrap().field("ports").unwrap();
        assert_eq!(ports.keys().collect::<Vec<_>>(), ["containerPort", "protocol"]);
        assert_eq!(ports.list_type(), ListType::Map);
        let volume = spec.field("volumes").unwrap();
        assert_eq!(
            volume.patch(),
            Patch {
                merge: true,
                retain_keys: true,
                replace: false
            }
        );
        assert!(volume.ty().object().unwrap().field("hostPath").unwrap().is_pointer());
        let policy = containers.ty().object().unwrap().field("imagePullPolicy").unwrap();
        assert_eq!(policy.ty().go(), "v1.PullPolicy");
        assert_eq!(
            policy.ty().values().collect::<Vec<_>>(),
            ["Always", "IfNotPresent", "Never"]
        );
    }

    #[test]
    fn kinds_of_meta_are_found_under_every_group() {
        let options = type_of("", "v1", "DeleteOptions").unwrap();
        assert_eq!(type_of("apps", "v1", "DeleteOptions"), Some(options));
        assert_eq!(type_of("apps", "v1", "Pod"), None);
        assert_eq!(
            type_of("autoscaling", "v1", "Scale").unwrap().id(),
            "autoscaling/v1.Scale"
        );
    }
}
