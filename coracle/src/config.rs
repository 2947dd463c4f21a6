//! What the user asked for: flags and the environment, read here and nowhere else.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A Kubernetes cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, about, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the cluster (again) and point kubectl at it
    Up(Up),
    /// Stop the cluster and its containers; everything stored is kept
    Down,
    /// Remove the cluster and all that it stored, and leave the machine as it was
    Reset,
    /// Say what runs
    Status,
    /// Print the server's log
    Logs {
        /// Wait for more
        #[arg(short, long)]
        follow: bool,
        /// How many of the last lines
        #[arg(long, default_value_t = 100)]
        tail: u32,
        /// The log of the cluster's containerd instead
        #[arg(long)]
        containerd: bool,
    },
    /// Check whether this machine can run a cluster
    Doctor,
    /// Bring images in without a registry, list them, remove those that nothing uses
    #[command(subcommand)]
    Image(ImageCommand),
    /// Merge the context `coracle` into your kubeconfig, or print it
    Kubeconfig {
        /// Print it instead
        #[arg(long)]
        print: bool,
    },
    /// Where the cluster keeps its objects
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print a completion script for your shell
    Completion { shell: clap_complete::Shell },
    /// Run the cluster's parts in this process, in the foreground
    Serve(Up),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Load an image archive (docker save or OCI layout, - is standard input); layers that are there are not sent again
    Load { archive: PathBuf },
    /// List the images that pods can use without pulling
    List,
    /// Remove the images that no container uses
    Prune,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Take the cluster's objects into an etcd, or back into the cluster's own store; the target must be empty
    Move {
        #[command(flatten)]
        etcd: apiserver::config::Etcd,
        /// Into the cluster's own store
        #[arg(long)]
        embedded: bool,
    },
}

/// What can be chosen at the first start. Later starts keep it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Up {
    /// The node's name; the host's name otherwise
    #[arg(long)]
    pub node_name: Option<String>,
    /// The node's address; that of the default route otherwise
    #[arg(long)]
    pub node_ip: Option<Ipv4Addr>,
    /// Where the API is served
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    #[command(flatten)]
    pub etcd: apiserver::config::Etcd,
    /// Leave kubeconfig files alone
    #[arg(long)]
    pub no_kubeconfig: bool,
    /// Log more: trace, debug, info, warn or error, also by module
    #[arg(long, default_value = "info")]
    pub log_level: String,
}

/// What is read of the environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub sudo_uid: Option<u32>,
    pub home: Option<String>,
    pub kubeconfig: Option<String>,
    pub path: String,
}

impl Environment {
    #[allow(clippy::disallowed_methods, reason = "this is the one reader of the environment")]
    pub(crate) fn read() -> Self {
        let var = |name| std::env::var(name).ok();
        Environment {
            sudo_uid: var("SUDO_UID").and_then(|uid| uid.parse().ok()),
            home: var("HOME"),
            kubeconfig: var("KUBECONFIG"),
            path: var("PATH").unwrap_or_default(),
        }
    }
}
