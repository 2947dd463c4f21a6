//! Flags → [`Config`]: the only reader of flags. Names and defaults are kube-apiserver's (1.36).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::admission::addresses::cidr::Cidr;
use crate::authn::front_proxy::FrontProxy;
use crate::registry::stored::Media;
use crate::server::{Limits, TlsFiles};
use crate::store;

/// All that the API server is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the network may connect; `None`: only connections within this process.
    pub listen: Option<Listen>,
    /// Where the `kubernetes` Service leads.
    pub advertise_address: IpAddr,
    /// The port that belongs to it.
    pub advertise_port: u16,
    pub services: Services,
    pub service_accounts: ServiceAccounts,
    pub authentication: Authentication,
    pub kubelets: Kubelets,
    pub admission: Admission,
    pub store: Store,
}

#[derive(Debug, Clone)]
pub struct Listen {
    pub address: SocketAddr,
    pub tls: TlsFiles,
    pub limits: Limits,
}

/// Addresses and ports that Services are given.
#[derive(Debug, Clone)]
pub struct Services {
    /// One range for each IP family, the primary first.
    pub ranges: Vec<Cidr>,
    pub node_ports: RangeInclusive<u16>,
}

#[derive(Debug, Clone)]
pub struct ServiceAccounts {
    /// The first one issues, all are believed.
    pub issuers: Vec<String>,
    /// Keys that verify.
    pub keys: Vec<PathBuf>,
    pub signing_key: PathBuf,
    /// For whom tokens are good here; empty: the issuers.
    pub audiences: Vec<String>,
    /// No token lives longer.
    pub max_expiration: Option<Duration>,
    /// Tokens of pods that ask for an hour and a bit live a year, because old clients do not read them again.
    pub extend_expiration: bool,
}

#[derive(Debug, Clone)]
pub struct Authentication {
    pub anonymous: bool,
    pub front_proxy: FrontProxy,
}

/// How to reach kubelets, for logs and exec.
#[derive(Debug, Clone, Default)]
pub struct Kubelets {
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    pub authority: Option<PathBuf>,
    /// Types of node addresses in the order in which they are tried.
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Rules that are off unless named.
    pub enable: Vec<String>,
    pub disable: Vec<String>,
}

/// Where the cluster's objects are kept.
#[derive(Debug, Clone)]
pub enum Store {
    Etcd {
        reach: store::etcd::Config,
        media: Media,
        /// How often etcd's history is forgotten; `None`: never by this server.
        compaction: Option<Duration>,
    },
    Embedded {
        directory: PathBuf,
    },
    /// For tests: gone with the process.
    Memory,
}

/// What was said cannot be done. The text names the flag.
#[derive(Debug, thiserror::Error)]
#[error("--{flag}: {why}")]
pub struct Error {
    flag: &'static str,
    why: String,
}

fn refuse<T>(flag: &'static str, why: impl Into<String>) -> Result<T, Error> {
    Err(Error { flag, why: why.into() })
}

/// The Kubernetes API over a store.
#[derive(Debug, Parser)]
#[command(name = "apiserver", version)]
pub struct Flags {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Address that the `kubernetes` Service leads to; default: that of the default route, or the bind address.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Ranges of the Services' addresses, at most one for each IP family.
    #[arg(long, default_value = "10.96.0.0/16", value_delimiter = ',')]
    service_cluster_ip_range: Vec<String>,
    /// Range of the Services' node ports.
    #[arg(long, default_value = "30000-32767")]
    service_node_port_range: String,
    /// Authorities whose client certificates are users.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Serving certificate.
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Key of the serving certificate.
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// Keys that verify service-account tokens; default: the signing key.
    #[arg(long)]
    service_account_key_file: Vec<PathBuf>,
    /// Key that signs service-account tokens.
    #[arg(long)]
    service_account_signing_key_file: PathBuf,
    /// Name of the issuer of service-account tokens; further ones are believed only.
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    service_account_issuer: Vec<String>,
    /// Audiences of tokens that are good for this API; default: the issuers.
    #[arg(long, value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Longest life of a service-account token in seconds; at least an hour.
    #[arg(long)]
    service_account_max_token_expiration_seconds: Option<u64>,
    /// Let tokens of pods live a year for clients that do not read them again.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    service_account_extend_token_expiration: bool,
    /// Let requests without credentials be system:anonymous, who may what the roles say.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    anonymous_auth: bool,
    /// Authorities of front proxies.
    #[arg(long)]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies; none: any that the authority signed.
    #[arg(long, value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    /// Headers that carry the user's name.
    #[arg(long, default_value = "X-Remote-User", value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    /// Headers that carry the user's UID.
    #[arg(long, default_value = "X-Remote-Uid", value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    /// Headers that carry the user's groups.
    #[arg(long, default_value = "X-Remote-Group", value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    /// Prefixes of headers that carry more about the user.
    #[arg(long, default_value = "X-Remote-Extra-", value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,
    /// Client certificate for kubelets.
    #[arg(long)]
    kubelet_client_certificate: Option<PathBuf>,
    /// Key of the client certificate for kubelets.
    #[arg(long)]
    kubelet_client_key: Option<PathBuf>,
    /// Authority of the kubelets' serving certificates.
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Types of node addresses in the order in which they are tried.
    #[arg(
        long,
        // Not upstream's default but what kubeadm sets: a node's host name need not resolve here.
        default_value = "InternalIP,Hostname,InternalDNS,ExternalDNS,ExternalIP",
        value_delimiter = ','
    )]
    kubelet_preferred_address_types: Vec<String>,
    /// Must name Node and RBAC: authorization is never off.
    #[arg(long, default_value = "Node,RBAC", value_delimiter = ',')]
    authorization_mode: Vec<String>,
    /// Admission rules beside the default ones.
    #[arg(long, value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Admission rules to leave out.
    #[arg(long, value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
    /// Concurrent requests on one HTTP/2 connection.
    #[arg(long, default_value_t = 250)]
    http2_max_streams_per_connection: u32,
    #[command(flatten)]
    pub logging: daemon::args::Logging,
    /// Directory of the embedded store, which is used where no etcd is named.
    #[arg(long, default_value = "/var/lib/coracle/store")]
    data_dir: PathBuf,
    #[command(flatten)]
    etcd: Etcd,
    /// How often the history of etcd is forgotten; 0 is never.
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    etcd_compaction_interval: String,
    /// How new values are written to etcd: application/json or application/vnd.kubernetes.protobuf. Both are read.
    #[arg(long, default_value = JSON)]
    storage_media_type: String,
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// How to reach etcd.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Etcd {
    /// Servers of the etcd to keep the objects in: https://10.0.0.1:2379; several with commas.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Authority that signed the etcd servers' certificates.
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of the client certificate for etcd.
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd begin with.
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
}

impl Etcd {
    /// `None`: no etcd is named.
    pub fn reach(self) -> Result<Option<store::etcd::Config>, Error> {
        if self.etcd_servers.is_empty() {
            return Ok(None);
        }
        for server in &self.etcd_servers {
            let known = server.starts_with("https://") || server.starts_with("http://") || !server.contains("://");
            if !known || server.is_empty() {
                return refuse("etcd-servers", format!("{server:?} is not like https://10.0.0.1:2379"));
            }
            if server.starts_with("https://") && self.etcd_cafile.is_none() {
                return refuse("etcd-cafile", format!("{server} must be verified by an authority"));
            }
        }
        let identity = match (self.etcd_certfile, self.etcd_keyfile) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(_), None) => return refuse("etcd-keyfile", "the certificate of --etcd-certfile needs its key"),
            (None, Some(_)) => return refuse("etcd-certfile", "the key of --etcd-keyfile needs its certificate"),
        };
        Ok(Some(store::etcd::Config {
            servers: self.etcd_servers,
            authority: self.etcd_cafile,
            identity,
            prefix: match &*self.etcd_prefix {
                prefix if prefix.starts_with('/') => prefix.to_owned(),
                prefix => format!("/{prefix}"),
            },
        }))
    }
}

impl TryFrom<Flags> for Config {
    type Error = Error;
    fn try_from(flags: Flags) -> Result<Config, Error> {
        for (mode, must) in [("Node", true), ("RBAC", true)] {
            if must && !flags.authorization_mode.iter().any(|m| m == mode) {
                return refuse("authorization-mode", format!("must name {mode}"));
            }
        }
        if let Some(other) = flags.authorization_mode.iter().find(|m| *m != "Node" && *m != "RBAC") {
            return refuse("authorization-mode", format!("{other} is not supported"));
        }
        let ranges = flags
            .service_cluster_ip_range
            .iter()
            .map(|text| Cidr::parse(text).or_else(|why| refuse("service-cluster-ip-range", why)))
            .collect::<Result<Vec<_>, _>>()?;
        if ranges.is_empty() || ranges.len() > 2 {
            return refuse("service-cluster-ip-range", "one range, or one for each IP family");
        }
        if ranges.len() == 2 && ranges[0].network.is_ipv4() == ranges[1].network.is_ipv4() {
            return refuse("service-cluster-ip-range", "two ranges must be of two IP families");
        }
        let node_ports = ports(&flags.service_node_port_range).or_else(|why| refuse("service-node-port-range", why))?;
        if flags
            .service_account_max_token_expiration_seconds
            .is_some_and(|s| s < 3600)
        {
            return refuse("service-account-max-token-expiration-seconds", "must be at least 3600");
        }
        let advertise_address = match flags.advertise_address {
            Some(address) => address,
            None if !flags.bind_address.is_unspecified() => flags.bind_address,
            None => default_address(),
        };
        let keys = match flags.service_account_key_file {
            keys if keys.is_empty() => vec![flags.service_account_signing_key_file.clone()],
            keys => keys,
        };
        let media = match &*flags.storage_media_type {
            JSON => Media::Json,
            PROTOBUF => Media::Protobuf,
            other => {
                return refuse(
                    "storage-media-type",
                    format!("{other:?} is neither {JSON} nor {PROTOBUF}"),
                );
            }
        };
        let compaction = daemon::args::duration(&flags.etcd_compaction_interval)
            .or_else(|why| refuse("etcd-compaction-interval", why.to_string()))?;
        let store = match flags.etcd.reach()? {
            Some(reach) => Store::Etcd {
                reach,
                media,
                compaction: (!compaction.is_zero()).then_some(compaction),
            },
            None if media == Media::Protobuf => return refuse("storage-media-type", "the embedded store keeps JSON"),
            None => Store::Embedded {
                directory: flags.data_dir,
            },
        };
        Ok(Config {
            listen: Some(Listen {
                address: (flags.bind_address, flags.secure_port).into(),
                tls: TlsFiles {
                    certificate: flags.tls_cert_file,
                    key: flags.tls_private_key_file,
                    client_ca: flags.client_ca_file,
                    front_proxy_ca: flags.requestheader_client_ca_file,
                },
                limits: Limits {
                    streams: flags.http2_max_streams_per_connection,
                    ..Limits::default()
                },
            }),
            advertise_address,
            advertise_port: flags.secure_port,
            services: Services { ranges, node_ports },
            service_accounts: ServiceAccounts {
                issuers: flags.service_account_issuer,
                keys,
                signing_key: flags.service_account_signing_key_file,
                audiences: flags.api_audiences,
                max_expiration: flags
                    .service_account_max_token_expiration_seconds
                    .map(Duration::from_secs),
                extend_expiration: flags.service_account_extend_token_expiration,
            },
            authentication: Authentication {
                anonymous: flags.anonymous_auth,
                front_proxy: FrontProxy {
                    allowed_names: flags.requestheader_allowed_names,
                    username_headers: flags.requestheader_username_headers,
                    uid_headers: flags.requestheader_uid_headers,
                    group_headers: flags.requestheader_group_headers,
                    extra_prefixes: flags.requestheader_extra_headers_prefix,
                },
            },
            kubelets: Kubelets {
                client_certificate: flags.kubelet_client_certificate,
                client_key: flags.kubelet_client_key,
                authority: flags.kubelet_certificate_authority,
                addresses: flags.kubelet_preferred_address_types,
            },
            admission: Admission {
                enable: flags.enable_admission_plugins,
                disable: flags.disable_admission_plugins,
            },
            store,
        })
    }
}

impl Config {
    /// A whole server for a test: a memory store and no listener. `signing_key` is a PEM file.
    pub fn for_test(signing_key: PathBuf) -> Config {
        Config {
            listen: None,
            advertise_address: Ipv4Addr::LOCALHOST.into(),
            advertise_port: 6443,
            services: Services {
                ranges: vec![Cidr {
                    network: Ipv4Addr::new(10, 96, 0, 0).into(),
                    prefix: 16,
                }],
                node_ports: 30000..=32767,
            },
            service_accounts: ServiceAccounts {
                issuers: vec!["https://kubernetes.default.svc.cluster.local".into()],
                keys: vec![signing_key.clone()],
                signing_key,
                audiences: Vec::new(),
                max_expiration: None,
                extend_expiration: true,
            },
            authentication: Authentication {
                anonymous: true,
                front_proxy: FrontProxy::default(),
            },
            kubelets: Kubelets {
                addresses: vec!["Hostname".into(), "InternalIP".into()],
                ..Kubelets::default()
            },
            admission: Admission::default(),
            store: Store::Memory,
        }
    }
}

impl ServiceAccounts {
    pub fn api_audiences(&self) -> &[String] {
        if self.audiences.is_empty() {
            &self.issuers
        } else {
            &self.audiences
        }
    }
}

impl Services {
    /// The address of the `kubernetes` Service: the first of the primary range.
    pub fn kubernetes(&self) -> IpAddr {
        self.ranges[0].nth(1).expect("a range has more than one address")
    }
}

/// `30000-32767`, or upstream's `30000+2767`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let invalid = || format!("{text:?} is not a range like 30000-32767");
    let number = |text: &str| text.trim().parse::<u16>().map_err(|_| invalid());
    let (from, to) = if let Some((from, to)) = text.split_once('-') {
        (number(from)?, number(to)?)
    } else if let Some((from, size)) = text.split_once('+') {
        let from = number(from)?;
        (from, from.checked_add(number(size)?).ok_or_else(invalid)?)
    } else {
        (number(text)?, number(text)?)
    };
    if from == 0 || to < from {
        Err(invalid())
    } else {
        Ok(from..=to)
    }
}

/// The address that packets to elsewhere would come from; loopback on a machine without a route. Nothing is sent.
fn default_address() -> IpAddr {
    let route = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    route().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 4] = [
        "apiserver",
        "--tls-cert-file=c",
        "--tls-private-key-file=k",
        "--service-account-signing-key-file=s",
    ];

    fn config(more: &[&str]) -> Result<Config, String> {
        let flags = Flags::try_parse_from(NEEDED.iter().chain(more)).map_err(|e| e.to_string())?;
        Config::try_from(flags).map_err(|e| e.to_string())
    }

    #[test]
    fn upstreams_flags_are_understood() {
        let config = config(&[
            "--advertise-address=192.0.2.7",
            "--service-cluster-ip-range=10.0.0.0/24,fd00::/112",
            "--service-node-port-range=40000+10",
            "--anonymous-auth=false",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
        ])
        .unwrap();
        assert_eq!(config.services.kubernetes(), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(config.services.node_ports, 40000..=40010);
        assert_eq!(config.advertise_address, "192.0.2.7".parse::<IpAddr>().unwrap());
        assert!(!config.authentication.anonymous);
        assert_eq!(config.service_accounts.keys, [PathBuf::from("s")]);
        assert_eq!(config.service_accounts.api_audiences().len(), 1);
    }

    #[test]
    fn a_named_etcd_is_the_store() {
        let flags = [
            "--etcd-servers=https://a:2379,https://b:2379",
            "--etcd-cafile=ca",
            "--etcd-certfile=c",
            "--etcd-keyfile=k",
            "--etcd-prefix=cluster",
            "--etcd-compaction-interval=0",
            "--storage-media-type=application/vnd.kubernetes.protobuf",
        ];
        let Store::Etcd {
            reach,
            media,
            compaction,
        } = config(&flags).unwrap().store
        else {
            panic!("not etcd");
        };
        assert_eq!(reach.servers, ["https://a:2379", "https://b:2379"]);
        assert_eq!(reach.prefix, "/cluster");
        assert_eq!(reach.identity, Some(("c".into(), "k".into())));
        assert_eq!((media, compaction), (Media::Protobuf, None));
        assert!(matches!(config(&[]).unwrap().store, Store::Embedded { .. }));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_the_flags_name() {
        for (flag, part) in [
            (
                "--authorization-mode=AlwaysAllow",
                "--authorization-mode: must name Node",
            ),
            ("--authorization-mode=Node,RBAC,Webhook", "Webhook is not supported"),
            ("--service-cluster-ip-range=10.0.0.1/24", "beyond its prefix"),
            ("--service-cluster-ip-range=10.0.0.0/30", "too small"),
            ("--service-cluster-ip-range=10.0.0.0/24,10.1.0.0/24", "two IP families"),
            ("--service-node-port-range=5-1", "--service-node-port-range"),
            ("--service-account-max-token-expiration-seconds=5", "at least 3600"),
            ("--etcd-servers=https://10.0.0.1:2379", "--etcd-cafile"),
            ("--etcd-servers=unix:///etcd", "--etcd-servers"),
            ("--etcd-compaction-interval=often", "--etcd-compaction-interval"),
            ("--storage-media-type=application/yaml", "--storage-media-type"),
            ("--storage-media-type=application/vnd.kubernetes.protobuf", "keeps JSON"),
        ] {
            let error = config(&[flag]).unwrap_err();
            assert!(error.contains(part), "{flag}: {error}");
        }
    }
}
