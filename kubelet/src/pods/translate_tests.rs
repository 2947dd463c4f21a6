use serde_json::json;

use super::*;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec})).unwrap()
}

fn config() -> Config {
    let mut config = Config::new("n1");
    config.cluster_dns = vec!["10.96.0.10".into()];
    config.cluster_domain = "cluster.local".into();
    config.resolv_conf = PathBuf::new();
    config
}

fn made(spec: serde_json::Value, image: ImageUser) -> Result<ContainerConfig, Error> {
    let (config, pod) = (config(), pod(spec));
    let subject = Subject::new(&config, &pod);
    let volumes = HashMap::from([(
        "v".to_owned(),
        Mounted {
            path: "/data".into(),
            read_only: false,
        },
    )]);
    let parts = Parts {
        container: &subject.spec().containers[0],
        attempt: 2,
        image_ref: "sha256:1".into(),
        image_user: image,
        env: vec![("A".into(), "1".into())],
        volumes: &volumes,
        sub_paths: HashMap::new(),
        recursive: false,
        hosts_file: Some("/hosts".into()),
        termination_file: Some("/words".into()),
        resources: LinuxResources::default(),
        target: None,
    };
    container(&subject, parts)
}

#[test]
fn a_container_is_translated() {
    let made = made(
        json!({"containers": [{"name": "c", "image": "i", "command": ["run", "$(A)"], "args": ["$(B)"],
            "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}],
            "securityContext": {"runAsUser": 7, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}}]}),
        ImageUser::default(),
    )
    .unwrap();
    assert_eq!(
        (made.command, made.args),
        (vec!["run".to_owned(), "1".into()], vec!["$(B)".to_owned()])
    );
    assert_eq!(made.log_path, "c/2.log");
    assert_eq!(made.labels[label::POD_UID], "u");
    assert_eq!(made.annotations[label::RESTART_COUNT], "2");
    let paths: Vec<(&str, bool)> = made
        .mounts
        .iter()
        .map(|m| (m.container_path.as_str(), m.readonly))
        .collect();
    assert_eq!(
        paths,
        [("/v", true), ("/etc/hosts", false), ("/dev/termination-log", false)]
    );
    let security = made.linux.unwrap().security_context.unwrap();
    assert_eq!(security.run_as_user, Some(Int64Value { value: 7 }));
    assert!(security.no_new_privs);
    assert_eq!(
        security.seccomp.unwrap().profile_type,
        ProfileType::RuntimeDefault as i32
    );
    assert_eq!(security.capabilities.unwrap().drop_capabilities, ["ALL"]);
}

#[test]
fn who_must_not_be_root_is_not() {
    let of = |context: serde_json::Value, uid: Option<i64>, name: &str| {
        let spec = json!({"securityContext": context, "containers": [{"name": "c", "image": "i"}]});
        made(spec, ImageUser { uid, name: name.into() })
            .map(drop)
            .map_err(|e| e.to_string())
    };
    let strict = json!({"runAsNonRoot": true});
    assert!(of(strict.clone(), Some(5), "").is_ok());
    assert!(of(json!({"runAsNonRoot": true, "runAsUser": 5}), None, "").is_ok());
    let root = of(strict.clone(), Some(0), "").unwrap_err();
    assert_eq!(
        root,
        "container has runAsNonRoot and image will run as root (pod: \"web_shop(u)\", container: c)"
    );
    assert!(
        of(strict, None, "nginx")
            .unwrap_err()
            .contains("non-numeric user (nginx)")
    );
}

#[test]
fn names_are_looked_up_in_the_cluster_first() {
    let (config, pod) = (
        config(),
        pod(json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}})),
    );
    let made = sandbox(&Subject::new(&config, &pod), 0, "/p".into());
    let dns = made.dns_config.unwrap();
    assert_eq!(dns.servers, ["10.96.0.10"]);
    assert_eq!(
        dns.searches,
        ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    );
    assert_eq!(dns.options, ["ndots:2"]);
    assert_eq!(made.hostname, "web");
}

#[test]
fn namespaces_follow_the_pod() {
    let of = |spec: serde_json::Value| {
        let options = namespaces(&serde_json::from_value(spec).unwrap());
        (options.network, options.pid, options.ipc)
    };
    assert_eq!(of(json!({"containers": []})), (0, 1, 0));
    assert_eq!(
        of(json!({"containers": [], "hostNetwork": true, "hostPID": true, "hostIPC": true})),
        (2, 2, 2)
    );
    assert_eq!(of(json!({"containers": [], "shareProcessNamespace": true})), (0, 0, 0));
}

#[test]
fn hosts_name_the_pod() {
    let (config, pod) = (
        config(),
        pod(
            json!({"containers": [], "hostname": "h", "subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
        ),
    );
    let text = hosts(&Subject::new(&config, &pod), &["10.0.0.9".to_owned()], None);
    assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
    assert!(text.contains("10.0.0.9\th.s.shop.svc.cluster.local\th\n"));
    assert!(text.ends_with("1.2.3.4\ta\tb\n"));
}

#[test]
fn a_sub_path_is_relative_and_needs_all_its_variables() {
    let env = [
        ("A".to_owned(), "x/y".to_owned()),
        ("B".to_owned(), String::new()),
        ("C".to_owned(), "/tmp".to_owned()),
    ];
    let of = |mount: serde_json::Value| {
        let mut mount = mount;
        mount["name"] = json!("v");
        mount["mountPath"] = json!("/v");
        sub_path(&serde_json::from_value(mount).unwrap(), &env).map_err(|e| e.to_string())
    };
    assert_eq!(of(json!({})), Ok(None));
    assert_eq!(of(json!({"subPath": "$(A)"})), Ok(Some("$(A)".into())));
    assert_eq!(of(json!({"subPathExpr": "$(A)/z"})), Ok(Some("x/y/z".into())));
    assert_eq!(
        of(json!({"subPathExpr": "$(B)$(D)"})),
        Err("missing value for B, D".into())
    );
    assert_eq!(
        of(json!({"subPathExpr": "$(C)"})),
        Err("error SubPath `/tmp` must not be an absolute path".into())
    );
    assert_eq!(
        of(json!({"subPath": "../x"})),
        Err("unable to provision SubPath `../x`: must not contain '..'".into())
    );
}

#[test]
fn a_mount_is_recursively_read_only_only_where_the_runtime_can() {
    let of = |mode: &str| {
        let mount = json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": mode});
        let spec = json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [mount]}]});
        made(spec, ImageUser::default())
            .map(|m| m.mounts[0].recursive_read_only)
            .map_err(|e| e.to_string())
    };
    assert_eq!((of("Disabled"), of("IfPossible")), (Ok(false), Ok(false)));
    assert!(of("Enabled").unwrap_err().contains("does not support"));
}
