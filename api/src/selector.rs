//! Label and field selectors: parsed from their string form, matched against facts.

/// A label selector (`app=web,tier in (a,b),!old`). The empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    pub requirements: Vec<Requirement>,
}

/// One term of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// A field selector (`spec.nodeName=n1,status.phase!=Failed`). The empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    pub terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    pub field: String,
    pub equal: bool,
    pub value: String,
}
