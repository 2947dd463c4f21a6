//! Rules in the real kernel, in network namespaces that exist as long as a test's threads and have no way out.
//! These tests need root; without it they say so and pass.

#[cfg(test)]
mod api;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod running;
#[cfg(test)]
mod space;
