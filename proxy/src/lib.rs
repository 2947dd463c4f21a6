//! Service routing of one node in the kernel's packet filter.
//! Services, EndpointSlices, the own Node and its pods come in through the API; elements of our own nftables table, one
//! route and a few settings of the kernel go out. No process is started and nothing is polled.
//! Invariant: the table is always the one that some state of the cluster asked for, also while and after this part ends.

pub mod cidr;
pub mod conntrack;
pub mod model;
mod netlink;
pub mod nft;
pub mod plan;
pub mod route;

/// Removes the table and the route. Services stop working; connections that stand go on.
pub fn cleanup() -> Result<(), CleanupError> {
    let gone = nft::Transaction {
        ops: vec![nft::Op::DeleteTable],
    };
    nft::Nft::apply(&mut nft::Kernel::open(plan::TABLE)?, &gone)?;
    route::remove()?;
    Ok(())
}

/// Something of this part is left on the node.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("removing the packet rules")]
    Rules(#[from] nft::Error),
    #[error("removing the route")]
    Route(#[from] route::Error),
}
