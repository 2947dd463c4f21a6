//! A patch: a tree and a document in, a new tree out. Pure: no kind is named here, types are asked through
//! [`strategic::Shape`], and nothing is stored.
//! Holds: a patch that is refused has changed nothing that the caller still uses.

pub mod json;
pub mod merge;
pub mod strategic;

/// Why a patch was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The document is no patch of its kind: the client's mistake whatever the object is (400).
    #[error("{0}")]
    Malformed(String),
    /// It is more than anybody means (413).
    #[error("{0}")]
    TooLarge(String),
    /// The document does not fit the object as it is now (422).
    #[error("{0}")]
    Unfit(String),
    /// A `test` operation did not hold, or a path is not there (422, with the patch library's words).
    #[error("the server rejected our request due to an error in our request")]
    Rejected,
}
