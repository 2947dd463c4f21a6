//! What only a runtime shows of pods: users and groups, parts of volumes, probes, helpers beside the work, last words, resizes.

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::lab::Node;
use serde_json::{Value, json};

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("pods_keep_what_they_promise_their_containers", promises),
    ("pods_see_parts_of_volumes_and_never_leave_them", parts),
    ("pods_follow_what_their_volumes_show", follow),
    ("pods_are_ready_or_start_anew_as_probes_say", probes),
    ("pods_of_jobs_have_helpers_to_their_end", helpers),
    ("pods_tell_last_words", last_words),
    ("pods_are_resized_while_they_run", resize),
    ("pods_of_files_run_and_are_mirrored", files),
];

/// Creates the objects in a namespace of their own.
fn create(node: &Node, namespace: &str, objects: &[Value]) -> anyhow::Result<()> {
    node.kubectl(&format!("create namespace {namespace}"))?;
    apply(node, namespace, objects)
}

fn apply(node: &Node, namespace: &str, objects: &[Value]) -> anyhow::Result<()> {
    let file = node.file(&format!("{namespace}.json"));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    std::fs::write(&file, list.to_string())?;
    node.kubectl(&format!("-n {namespace} apply -f {}", file.display()))
        .map(drop)
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["terminationGracePeriodSeconds"] = json!(1);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
}

fn box_of(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox:1.36", "command": ["sh", "-c", script]})
}

const FOREVER: &str = "trap 'exit 0' TERM; sleep 86400 & wait";

fn with(mut object: Value, more: Value) -> Value {
    let members = object.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    object
}

fn get(node: &Node, namespace: &str, name: &str) -> anyhow::Result<Value> {
    let text = node.kubectl(&format!("-n {namespace} get pod {name} -o json"))?;
    serde_json::from_str(&text).context("kubectl prints JSON")
}

fn ended(node: &Node, namespace: &str, name: &str) -> anyhow::Result<Value> {
    eventually("the pod ends", || {
        let pod = get(node, namespace, name)?;
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        ensure!(phase == "Succeeded" || phase == "Failed", "{}", pod["status"]);
        Ok(pod)
    })
}

fn promises(node: &Node) -> anyhow::Result<()> {
    let script = "echo user $(id -u):$(id -g) $(id -G); cat /etc/hosts /etc/resolv.conf; hostname -f; env; \
        stat -L -c '%n %a %u:%g' /data /memory /secret/token; touch /data/mine && stat -c '%n %u:%g' /data/mine; \
        grep -E 'NoNewPrivs|Seccomp:|CapEff' /proc/self/status; touch /root-file || echo root is read-only; \
        df -m /memory | tail -1; cat /downward/cpu; echo; cat /downward/labels; echo args $0";
    let container = with(
        box_of("c", script),
        json!({
            "args": ["$(GREETING)-$(MISSING)"],
            "env": [{"name": "GREETING", "value": "hello $(WHO)"}, {"name": "WHO", "value": "late"},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
            "envFrom": [{"prefix": "M_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "none", "optional": true}}],
            "resources": {"limits": {"cpu": "150m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "memory", "mountPath": "/memory"},
                {"name": "secret", "mountPath": "/secret"}, {"name": "downward", "mountPath": "/downward"}],
            "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}},
        }),
    );
    let spec = json!({
        "restartPolicy": "Never", "hostname": "mail", "subdomain": "posts",
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["old", "older"]}],
        "dnsConfig": {"searches": ["example.test"], "options": [{"name": "ndots", "value": "2"}]},
        "securityContext": {"fsGroup": 2000, "supplementalGroups": [4000]},
        "containers": [container],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            {"name": "secret", "secret": {"secretName": "keys", "defaultMode": 0o400}},
            {"name": "downward", "downwardAPI": {"items": [
                {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}},
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
    });
    create(
        node,
        "promises",
        &[
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"color": "red"}}),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": {"token": "t"}}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "my-db"},
                "spec": {"clusterIP": "10.96.7.7", "ports": [{"name": "sql", "port": 5432}]}}),
        ],
    )?;
    eventually("the address is the one wished for", || {
        ensure!(node.kubectl("-n promises get service my-db -o jsonpath={.spec.clusterIP}")? == "10.96.7.7");
        Ok(())
    })?;
    apply(node, "promises", &[pod("p", spec)])?;
    ended(node, "promises", "p")?;
    let said = node.kubectl("-n promises logs p")?;
    for line in [
        "user 1000:3000 3000 2000 4000",
        "192.0.2.7\told\tolder",
        "mail.posts.promises.svc.cluster.local",
        "nameserver 10.96.0.10",
        "search promises.svc.cluster.local svc.cluster.local cluster.local",
        "options ndots:2",
        "GREETING=hello $(WHO)",
        "CPUS=150",
        "M_color=red",
        "MY_DB_SERVICE_HOST=10.96.7.7",
        "MY_DB_PORT_5432_TCP=tcp://10.96.7.7:5432",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
        "/data 2777 0:2000",
        "/memory 2777 0:2000",
        "/secret/token 440 0:2000",
        "/data/mine 1000:2000",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "root is read-only",
        "app=\"p\"",
        "args hello $(WHO)-$(MISSING)",
    ] {
        ensure!(said.contains(line), "{line:?} is missing in\n{said}");
    }
    let memory = said
        .lines()
        .find(|l| l.starts_with("tmpfs"))
        .context("the volume in memory is a tmpfs")?;
    ensure!(memory.split_whitespace().nth(1) == Some("8"), "{memory}");
    node.kubectl("delete namespace promises --timeout=60s")?;
    Ok(())
}

fn parts(node: &Node) -> anyhow::Result<()> {
    let mount = |path: &str, more: Value| with(json!({"name": "data", "mountPath": path}), more);
    let volumes = json!([{"name": "data", "emptyDir": {}},
        {"name": "config", "configMap": {"name": "files"}}]);
    let good = with(
        box_of(
            "c",
            "id -u > /logs/who; cat /conf/one; ls /conf; ls /all/logs; stat -c %a /logs; echo done",
        ),
        json!({
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "securityContext": {"runAsUser": 1000},
            "volumeMounts": [mount("/logs", json!({"subPathExpr": "logs/$(POD)"})), mount("/all", json!({})),
                {"name": "config", "mountPath": "/conf/one", "subPath": "a"}]
        }),
    );
    let link = with(
        box_of("link", "ln -s / /all/out"),
        json!({"volumeMounts": [mount("/all", json!({}))]}),
    );
    let bad = with(
        box_of("c", "cat /out/hostname"),
        json!({"volumeMounts": [mount("/out", json!({"subPath": "out/etc"}))]}),
    );
    create(
        node,
        "parts",
        &[
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "files"}, "data": {"a": "content-a\n", "b": "b"}}),
            pod(
                "good",
                json!({"restartPolicy": "Never", "containers": [good], "volumes": volumes}),
            ),
            pod(
                "bad",
                json!({"restartPolicy": "Never", "initContainers": [link], "containers": [bad], "volumes": volumes}),
            ),
        ],
    )?;
    let pod = ended(node, "parts", "good")?;
    ensure!(pod["status"]["phase"] == "Succeeded", "{}", pod["status"]);
    let said = node.kubectl("-n parts logs good")?;
    ensure!(said == "content-a\none\ngood\n777\ndone\n", "{said:?}");
    eventually("the link is refused", || {
        let state = get(node, "parts", "bad")?["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        ensure!(
            state["reason"] == "CreateContainerConfigError"
                && state["message"] == "failed to prepare subPath for volumeMount \"data\" of container \"c\"",
            "{state}"
        );
        Ok(())
    })?;
    node.kubectl("delete namespace parts --timeout=60s")?;
    let left = node.sh("grep -c volume-subpaths /proc/self/mountinfo || true")?;
    ensure!(left.trim() == "0", "{left} mounts are left");
    Ok(())
}

fn follow(node: &Node) -> anyhow::Result<()> {
    let container = with(
        box_of("c", FOREVER),
        json!({"volumeMounts": [{"name": "all", "mountPath": "/all"}, {"name": "late", "mountPath": "/late"}]}),
    );
    let volumes = json!([{"name": "all", "projected": {"sources": [
            {"configMap": {"name": "map", "items": [{"key": "k", "path": "deep/k"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {"serviceAccountToken": {"path": "token", "audience": "somebody"}}]}},
        {"name": "late", "secret": {"secretName": "late", "optional": true}}]);
    let map = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}, "data": {"k": value}});
    create(
        node,
        "shown",
        &[
            map("one"),
            pod("p", json!({"containers": [container], "volumes": volumes})),
        ],
    )?;
    node.kubectl("-n shown wait --for=condition=Ready pod/p --timeout=60s")?;
    let read = |path: &str| node.kubectl(&format!("-n shown exec p -- cat {path}"));
    ensure!(read("/all/deep/k")? == "one");
    ensure!(read("/all/token")?.split('.').count() == 3);
    apply(node, "shown", &[map("two")])?;
    node.kubectl("-n shown label pod p tier=back")?;
    node.kubectl("-n shown create secret generic late --from-literal=word=now")?;
    eventually("the files follow", || {
        ensure!(read("/all/deep/k")? == "two");
        ensure!(read("/all/labels")? == "app=\"p\"\ntier=\"back\"");
        ensure!(read("/late/word")? == "now");
        Ok(())
    })?;
    node.kubectl("delete namespace shown --timeout=60s")?;
    Ok(())
}

fn probes(node: &Node) -> anyhow::Result<()> {
    let exec = |script: &str| json!({"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 1});
    let slow = with(
        box_of(
            "c",
            &format!("(sleep 3; touch /tmp/up; sleep 3; touch /tmp/ready) & {FOREVER}"),
        ),
        json!({
            "startupProbe": with(exec("test -e /tmp/up"), json!({"failureThreshold": 30})),
            "livenessProbe": with(exec("test -e /tmp/up"), json!({"failureThreshold": 1})),
            "readinessProbe": exec("test -e /tmp/ready"),
        }),
    );
    let web = "mkdir /www; echo ok > /www/index.html; httpd -f -p 8080 -h /www";
    let served = with(
        box_of("c", web),
        json!({"livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}),
    );
    let mute = with(
        box_of("c", web),
        json!({"livenessProbe": {"grpc": {"port": 8081}, "periodSeconds": 1, "failureThreshold": 2}}),
    );
    create(
        node,
        "probed",
        &[
            pod("slow", json!({"containers": [slow]})),
            pod("served", json!({"containers": [served]})),
            pod("mute", json!({"containers": [mute]})),
        ],
    )?;
    node.kubectl("-n probed wait --for=condition=Ready pod/served --timeout=60s")?;
    eventually("it has started before it is ready", || {
        let status = get(node, "probed", "slow")?["status"]["containerStatuses"][0].clone();
        ensure!(status["started"] == true && status["ready"] == false, "{status}");
        Ok(())
    })?;
    node.kubectl("-n probed wait --for=condition=Ready pod/slow --timeout=60s")?;
    eventually("who does not answer starts anew", || {
        let status = get(node, "probed", "mute")?["status"]["containerStatuses"][0].clone();
        ensure!(status["restartCount"].as_i64() >= Some(1), "{status}");
        Ok(())
    })?;
    let described = node.kubectl("-n probed describe pod mute")?;
    ensure!(
        described.contains("Liveness probe failed: error: failed to connect service at")
            && described.contains("Container c failed liveness probe, will be restarted"),
        "{described}"
    );
    for quiet in ["slow", "served"] {
        let status = get(node, "probed", quiet)?["status"]["containerStatuses"][0].clone();
        ensure!(status["restartCount"] == 0, "{quiet}: {status}");
    }
    node.kubectl("delete namespace probed --timeout=60s")?;
    Ok(())
}

fn helpers(node: &Node) -> anyhow::Result<()> {
    let shared = json!({"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
    let helper = with(
        box_of(
            "helper",
            "sleep 1; touch /shared/up; trap 'echo helper >> /shared/ends; cat /shared/ends; exit 0' TERM; sleep 86400 & wait",
        ),
        json!({"restartPolicy": "Always",
            "startupProbe": {"exec": {"command": ["test", "-e", "/shared/up"]}, "periodSeconds": 1}}),
    );
    let first = box_of("first", "test ! -e /shared/up && echo first > /shared/ends");
    let second = box_of("second", "test -e /shared/up && echo second >> /shared/ends");
    let work = box_of("work", "sleep 1; echo work >> /shared/ends");
    let container = |c: Value| with(c, shared.clone());
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 20,
        "initContainers": [container(first), container(helper), container(second)],
        "containers": [container(work)], "volumes": [{"name": "shared", "emptyDir": {}}]});
    create(
        node,
        "helped",
        &[
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"},
            "spec": {"backoffLimit": 0, "template": {"spec": spec}}}),
        ],
    )?;
    node.kubectl("-n helped wait --for=condition=Complete job/job --timeout=60s")?;
    let name = node.kubectl("-n helped get pods -l job-name=job -o jsonpath={.items[0].metadata.name}")?;
    let pod = get(node, "helped", &name)?;
    ensure!(pod["status"]["phase"] == "Succeeded", "{}", pod["status"]);
    let said = node.kubectl(&format!("-n helped logs {name} -c helper"))?;
    ensure!(said == "first\nsecond\nwork\nhelper\n", "{said:?}");
    node.kubectl("delete namespace helped --timeout=60s")?;
    Ok(())
}

fn last_words(node: &Node) -> anyhow::Result<()> {
    let fallback = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let containers = json!([
        with(
            box_of("file", "printf 'all is well' > /tmp/words"),
            json!({"terminationMessagePath": "/tmp/words", "securityContext": {"runAsUser": 1000}}),
        ),
        with(
            box_of("logged", "for n in $(seq 100); do echo line $n; done; exit 1"),
            fallback.clone()
        ),
        with(box_of("silent", "echo not this"), fallback),
        box_of(
            "long",
            "head -c 10000 /dev/zero | tr '\\0' x > /dev/termination-log; exit 3"
        ),
    ]);
    create(
        node,
        "words",
        &[pod("p", json!({"restartPolicy": "Never", "containers": containers}))],
    )?;
    let pod = ended(node, "words", "p")?;
    let said = |name: &str| {
        let all = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let own = all.into_iter().find(|c| c["name"] == name).unwrap_or_default();
        own["state"]["terminated"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    ensure!(said("file") == "all is well", "{}", pod["status"]);
    let logged = said("logged");
    ensure!(
        logged.starts_with("line 21\n") && logged.ends_with("line 100\n"),
        "{logged:?}"
    );
    ensure!(
        said("silent").is_empty() && said("long").len() == 3072,
        "{}",
        pod["status"]
    );
    node.kubectl("delete namespace words --timeout=60s")?;
    Ok(())
}

fn resize(node: &Node) -> anyhow::Result<()> {
    let container = with(
        box_of("c", FOREVER),
        json!({
            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
                {"resourceName": "memory", "restartPolicy": "RestartContainer"}]
        }),
    );
    create(node, "sized", &[pod("p", json!({"containers": [container]}))])?;
    node.kubectl("-n sized wait --for=condition=Ready pod/p --timeout=60s")?;
    let patch = |limits: Value| -> anyhow::Result<()> {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": limits}}]}}).to_string();
        let mut command = node.command("kubectl");
        command
            .args("-n sized patch pod p --subresource resize --patch".split(' '))
            .arg(patch);
        e2e::run(&mut command).map(drop)
    };
    let status = |name: &str| anyhow::Ok(get(node, "sized", "p")?["status"]["containerStatuses"][0][name].clone());
    let quota = || {
        let v1 = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max";
        let mut command = node.command("kubectl");
        e2e::run(command.args("-n sized exec p -- sh -c".split(' ')).arg(v1))
    };
    ensure!(quota()?.trim() == "10000", "{}", quota()?);
    patch(json!({"cpu": "200m"}))?;
    eventually("more is given", || {
        let resources = status("resources")?;
        ensure!(resources["limits"]["cpu"] == "200m", "{resources}");
        Ok(())
    })?;
    ensure!(
        quota()?.trim() == "20000" && status("restartCount")? == 0,
        "{}",
        quota()?
    );
    patch(json!({"memory": "96Mi"}))?;
    eventually("memory takes a new start", || {
        let (count, resources) = (status("restartCount")?, status("resources")?);
        ensure!(
            count == 1 && resources["limits"]["memory"] == "96Mi",
            "{count} {resources}"
        );
        Ok(())
    })?;
    let patch = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "500"}, "limits": {"cpu": "500"}}}]}});
    let mut command = node.command("kubectl");
    command
        .args("-n sized patch pod p --subresource resize --patch".split(' '))
        .arg(patch.to_string());
    e2e::run(&mut command)?;
    eventually("too much is refused", || {
        let pod = get(node, "sized", "p")?;
        let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let pending = all
            .into_iter()
            .find(|c| c["type"] == "PodResizePending")
            .unwrap_or_default();
        ensure!(pending["reason"] == "Infeasible", "{pending}");
        Ok(())
    })?;
    node.kubectl("delete namespace sized --timeout=60s")?;
    Ok(())
}

fn files(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace files")?;
    let file = "/var/lib/kubelet/manifests/static.yaml";
    let write = |word: &str| -> anyhow::Result<()> {
        let mut object = pod(
            "static",
            json!({"containers": [box_of("c", &format!("echo {word}; {FOREVER}"))]}),
        );
        object["metadata"]["namespace"] = json!("files");
        let text = object.to_string().replace('\'', "'\\''");
        node.sh(&format!("printf '%s' '{text}' > {file}.next && mv {file}.next {file}"))
            .map(drop)
    };
    write("one")?;
    let host = node.kubectl("get nodes -o jsonpath={.items[0].metadata.name}")?;
    let name = format!("static-{host}");
    let logs = |word: &str| {
        eventually("the pod of the file says its word", || {
            let said = node.kubectl(&format!("-n files logs {name}"))?;
            ensure!(said.trim() == word, "{said}");
            Ok(())
        })
    };
    logs("one")?;
    eventually("its mirror is ready", || {
        let pod = get(node, "files", &name)?;
        ensure!(
            pod["status"]["containerStatuses"][0]["ready"] == true,
            "{}",
            pod["status"]
        );
        ensure!(
            pod["metadata"]["ownerReferences"][0]["kind"] == "Node",
            "{}",
            pod["metadata"]
        );
        Ok(())
    })?;
    let started = || anyhow::Ok(get(node, "files", &name)?["status"]["containerStatuses"][0]["containerID"].clone());
    let before = started()?;
    node.kubectl(&format!("-n files delete pod {name} --wait=false"))?;
    eventually("deleting the mirror stops nothing", || {
        let pod = get(node, "files", &name)?;
        ensure!(
            pod["metadata"]["deletionTimestamp"].is_null() && started()? == before,
            "{}",
            pod["status"]
        );
        Ok(())
    })?;
    ensure!(node.kubectl(&format!("-n files exec {name} -- hostname"))?.trim() == name);
    write("two")?;
    logs("two")?;
    node.sh(&format!("rm {file}"))?;
    eventually("the pod goes with its file", || {
        ensure!(node.kubectl("-n files get pods -o name")?.is_empty());
        Ok(())
    })?;
    node.kubectl("delete namespace files --timeout=60s")?;
    Ok(())
}
