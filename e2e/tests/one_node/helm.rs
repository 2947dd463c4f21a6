//! A release with Helm 4, which applies on the server's side: installed, upgraded, rolled back, uninstalled.

use anyhow::ensure;
use e2e::lab::Node;

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("a_release_lives_its_life_with_helm", release)];

const TEMPLATES: &str = r#"apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}-text"}
data: {text: {{ .Values.text | quote }}}
---
apiVersion: v1
kind: Service
metadata: {name: "{{ .Release.Name }}"}
spec:
  selector: {app: "{{ .Release.Name }}"}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: "{{ .Release.Name }}"}}
  template:
    metadata: {labels: {app: "{{ .Release.Name }}"}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: "busybox:1.36", command: [sleep, "1000000"]}
{{- if .Values.extra }}
---
apiVersion: v1
kind: Secret
metadata: {name: "{{ .Release.Name }}-extra"}
stringData: {a: b}
{{- end }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: "{{ .Release.Name }}-before"
  annotations: {"helm.sh/hook": "pre-install,pre-upgrade", "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded"}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "busybox:1.36", command: ["true"]}]
"#;

fn release(node: &Node) -> anyhow::Result<()> {
    node.kubectl("create namespace helm")?;
    let chart = node.file("chart");
    std::fs::create_dir_all(chart.join("templates"))?;
    std::fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: web\nversion: 0.1.0\n")?;
    std::fs::write(chart.join("values.yaml"), "replicas: 1\ntext: one\nextra: false\n")?;
    std::fs::write(chart.join("templates/all.yaml"), TEMPLATES)?;
    let chart = chart.display().to_string();
    let helm = |line: &str| node.sh(&format!("helm -n helm {}", line.replace("CHART", &chart)));
    let text = || node.kubectl("-n helm get configmap web-text -o jsonpath={.data.text}");
    let said = helm("install web CHART --wait --timeout 90s")?;
    ensure!(said.contains("STATUS: deployed"), "{said}");
    ensure!(text()? == "one");
    let managers = node.kubectl("-n helm get service web -o jsonpath={.metadata.managedFields[*].manager}")?;
    ensure!(managers == "helm", "{managers}");
    helm("upgrade web CHART --set replicas=2,text=two,extra=true --wait --timeout 90s")?;
    ensure!(text()? == "two");
    node.kubectl("-n helm get secret web-extra")?;
    let ready = node.kubectl("-n helm get deployment web -o jsonpath={.status.readyReplicas}")?;
    ensure!(ready == "2", "{ready}");
    helm("rollback web 1 --wait --timeout 90s")?;
    ensure!(text()? == "one");
    ensure!(
        node.kubectl("-n helm get secret web-extra --ignore-not-found")?
            .is_empty()
    );
    // What somebody scaled in between is theirs until helm is told otherwise.
    node.kubectl("-n helm scale deployment web --replicas=3")?;
    let conflict = node.sh(&format!(
        "if helm -n helm upgrade web {chart} --set replicas=2 2>&1; then exit 1; fi"
    ))?;
    ensure!(
        conflict.contains("conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{conflict}"
    );
    helm("upgrade web CHART --set replicas=2 --force-conflicts --wait --timeout 90s")?;
    let history = helm("history web")?;
    ensure!(
        history.lines().count() == 6 && history.contains("Rollback to 1"),
        "{history}"
    );
    helm("uninstall web --wait --timeout 90s")?;
    let left = node.kubectl("-n helm get deployments,services,secrets -o name")?;
    ensure!(left.is_empty(), "{left}");
    node.kubectl("delete namespace helm --wait=false")?;
    Ok(())
}
