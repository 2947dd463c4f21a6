//! The generic resource: every verb written once, over any row of the table.
//! Comes in: an object or a name, who asks, and `mutate`/`validate` as closures. Goes out: stored entries. It knows no
//! HTTP and no admission. A write is one fixed order and one compare-and-swap loop.

pub mod row;
pub mod rows;
