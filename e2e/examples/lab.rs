//! A lab node to try things in: `cargo run -p e2e --example lab`. Prints how to enter it; it goes when its input ends.

use std::io::Read;

use e2e::lab::{self, Node};
use e2e::tools::Tools;

fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(lab::INIT) {
        lab::init(&words.next().expect("the lab names its ready file"));
    }
    let node = Node::start("lab", &Tools::get()?)?;
    for (name, make) in [
        ("busybox", e2e::images::busybox as fn(&Tools, &std::path::Path) -> _),
        ("redis", e2e::images::redis),
    ] {
        make(node.tools(), &node.file(&format!("{name}.tar")))?;
    }
    e2e::say(&format!("{:?}", node.command("sh")));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
