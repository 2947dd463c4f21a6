//! The node agent: pods that the API assigns to this node run here, and the API learns what became of them.

pub mod config;
pub mod node;
pub mod pods;
pub mod removal;
pub mod resources;
pub mod runtime;
pub mod server;
pub mod stats;
pub mod volumes;

use std::{io, sync::Arc};

use daemon::{
    Recorder, Tasks,
    clients::Clients,
    events::EventType,
    informer::{Entry, Informers, Options},
};
use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use config::Config;
use node::report::Reporter;
use pods::{
    images::Images,
    probes::Probes,
    shared::{NodeFacts, Post, Shared},
    statics,
};
use resources::cgroups::{Cgroups, Driver};
use runtime::{Runtime, cri::Cri, events};
use volumes::{Volumes, claims::Claims, objects::Objects, tokens::Tokens};

/// All end the part, which its supervisor starts again; containers run on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot make {path}")]
    Directory {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot make the cgroups of pods")]
    Cgroups(#[from] resources::cgroups::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Tasks(#[from] daemon::tasks::Error),
}

/// Runs the node agent until `stop`. Stopping it stops no container.
pub async fn run(config: Config, clients: Arc<dyn Clients>, stop: CancellationToken) -> Result<(), Error> {
    let runtime = Arc::new(Cri::new(&config.runtime_endpoint, config.image_endpoint.as_deref()));
    run_with(config, clients, runtime, stop).await
}

/// The same over any runtime.
pub async fn run_with(
    config: Config,
    clients: Arc<dyn Clients>,
    runtime: Arc<dyn Runtime>,
    stop: CancellationToken,
) -> Result<(), Error> {
    for dir in [&config.root_dir, &config.logs_dir] {
        std::fs::create_dir_all(dir).map_err(|source| Error::Directory {
            path: dir.display().to_string(),
            source,
        })?;
    }
    let config = Arc::new(config);
    let client = clients.own();
    let mut tasks = Tasks::under(&stop);
    let driver = driver(&config, &*runtime).await;
    let cgroups = Cgroups::new(&config.cgroup_mount, &config.cgroup_root, driver);
    let machine = node::facts::machine(&config.cgroup_mount);
    if config.cgroups_per_qos {
        cgroups.prepare(machine.milli_cpu, machine.memory)?;
    }
    let informers = Informers::new(client.clone());
    let own = Options {
        fields: format!("spec.nodeName={}", config.node_name),
        ..Options::default()
    };
    let pods = informers.of::<Pod>(own);
    let services = informers.of::<Service>(Options::default());
    let recorder = Recorder::new(client.clone(), "kubelet", config.node_name.clone());
    let (facts, node) = watch::channel(NodeFacts::default());
    let nudge = Arc::new(Notify::new());
    let (pressures, pressed) = watch::channel(node::eviction::Pressures::new());
    let reporter = Reporter::new(
        config.clone(),
        runtime.clone(),
        client.clone(),
        &informers,
        facts,
        nudge.clone(),
        pressed,
    );
    let post = Post::default();
    let thresholds = config.thresholds()?;

    let volumes_changed = post.clone();
    let objects = Objects::new(client.clone(), tasks.token(), move |uid| volumes_changed.volumes(uid));
    let probes = {
        let (changed, recorder) = (post.clone(), recorder.clone());
        let listed = pods.clone();
        Probes::new(
            runtime.clone(),
            move |uid| changed.look(uid),
            move |target, reason, text| {
                let all = listed.list();
                // Of a static pod the mirror's definition is the same.
                let mine =
                    |e: &&Arc<Entry<Pod>>| *e.uid == *target.uid || statics::mirrored(e).as_ref() == Some(&target.uid);
                let Some(entry) = all.iter().find(mine) else {
                    return;
                };
                let about = k8s_openapi::api::core::v1::ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(entry.name.to_string()),
                    namespace: Some(entry.namespace.to_string()),
                    uid: Some(target.uid.clone()),
                    field_path: entry.typed().ok().map(|pod| {
                        let name = &target.container.name;
                        format!("{}{{{name}}}", pods::shared::field(&pod, name))
                    }),
                    ..Default::default()
                };
                recorder.publish(&about, EventType::Warning, reason, text);
            },
        )
    };
    let statics = pods::statics::Statics::new(config.static_pods.clone(), &config.node_name);
    let shared = Arc::new(Shared {
        statics,
        volumes: Volumes::new(
            config.root_dir.clone(),
            objects,
            Tokens::new(client.clone()),
            Claims::new(client.clone()),
        ),
        images: Images::new(runtime.clone(), client.clone(), config.parallel_pulls),
        config: config.clone(),
        runtime: runtime.clone(),
        client: client.clone(),
        recorder,
        pods,
        services,
        probes: probes.clone(),
        cgroups,
        node,
        post,
        allocations: pods::resize::Allocations::new(&config.root_dir),
        meter: stats::Meter::default(),
        evictions: node::eviction::Tally::default(),
    });

    // As many as a busy second brings; when full, the runtime's own stream waits, and a break of it means a look at everything.
    let (hints, heard) = mpsc::channel(256);
    tasks.spawn("informers", |stop| informers.run(stop));
    tasks.spawn("runtime events", {
        let runtime = runtime.clone();
        move |stop| async move {
            events::follow(runtime, hints, stop).await;
            Ok::<(), Error>(())
        }
    });
    tasks.spawn("static pods", {
        let shared = shared.clone();
        move |stop| async move {
            shared.statics.follow(stop).await.map_err(|source| Error::Directory {
                path: shared
                    .config
                    .static_pods
                    .as_deref()
                    .unwrap_or(std::path::Path::new(""))
                    .display()
                    .to_string(),
                source,
            })
        }
    });
    tasks.spawn("mirrors", {
        let shared = shared.clone();
        move |stop| async move {
            pods::statics::mirror(shared, stop).await;
            Ok::<(), Error>(())
        }
    });
    tasks.spawn("probes", |stop| async move {
        probes.run(stop).await;
        Ok::<(), Error>(())
    });
    tasks.spawn("node", |stop| async move {
        reporter.run(stop).await;
        Ok::<(), Error>(())
    });
    if config.register {
        let (client, name, duration) = (client.clone(), config.node_name.clone(), config.lease_duration);
        tasks.spawn("lease", move |stop| async move {
            node::lease::keep(client, name, duration, stop).await;
            Ok::<(), Error>(())
        });
    }
    if let Some(server) = config.server.clone() {
        if server.request_certificate {
            let serving = node::certificate::Serving {
                node: config.node_name.clone(),
                certificate: server.certificate.clone(),
                key: server.key.clone(),
            };
            let (client, facts) = (client.clone(), shared.node.clone());
            tasks.spawn("serving certificate", move |stop| async move {
                node::certificate::keep(serving, client, facts, stop).await;
                Ok::<(), Error>(())
            });
        }
        let shared = shared.clone();
        tasks.spawn("server", move |stop| server::run(server, shared, stop));
    }
    tasks.spawn("eviction", {
        let shared = shared.clone();
        move |stop| async move {
            node::eviction::run(shared, thresholds, pressures, stop).await;
            Ok::<(), Error>(())
        }
    });
    tasks.spawn("log rotation", {
        let shared = shared.clone();
        move |stop| async move {
            server::rotate::run(shared, stop).await;
            Ok::<(), Error>(())
        }
    });
    tasks.spawn("pods", {
        let shared = shared.clone();
        move |stop| pods::run(shared, heard, nudge, stop)
    });
    tasks.run(stop.cancelled_owned()).await.map_err(Error::Tasks)
}

/// The runtime's own choice where it tells, else the configured one.
async fn driver(config: &Config, runtime: &dyn Runtime) -> Driver {
    match runtime.runtime_config().await.ok().and_then(|c| c.linux) {
        Some(linux) if linux.cgroup_driver == 0 => Driver::Systemd,
        Some(_) => Driver::Cgroupfs,
        None => config.cgroup_driver,
    }
}
