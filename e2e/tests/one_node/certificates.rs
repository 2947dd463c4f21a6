//! A person asks for a certificate, another approves or denies it, and the first uses it.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, ensure};
use e2e::lab::Node;
use e2e::{eventually, run};

use crate::Scenario;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("certificates_are_approved_denied_and_used", certificates)];

fn ask(node: &Node, name: &str) -> anyhow::Result<()> {
    let request = node.sh(&format!(
        "cd {folder} && openssl req -new -newkey rsa:2048 -nodes -subj /O=dev/O=ops/CN=jane -keyout {name}.key 2>/dev/null | base64 -w0",
        folder = node.file("").display()
    ))?;
    let manifest = format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  \
         request: {request}\n  signerName: kubernetes.io/kube-apiserver-client\n  expirationSeconds: 3600\n  \
         usages: [client auth]\n"
    );
    let mut child = node
        .command("kubectl")
        .args(["create", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("stdin is piped")?
        .write_all(manifest.as_bytes())?;
    ensure!(child.wait_with_output()?.status.success(), "{manifest}");
    Ok(())
}

fn certificates(node: &Node) -> anyhow::Result<()> {
    ask(node, "jane")?;
    ask(node, "joe")?;
    let pending = node.kubectl("get csr --no-headers")?;
    ensure!(pending.matches("Pending").count() == 2, "{pending}");
    let said = node.kubectl("certificate approve jane")?;
    ensure!(
        said.contains("certificatesigningrequest.certificates.k8s.io/jane approved"),
        "{said}"
    );
    node.kubectl("certificate deny joe")?;
    eventually("it is issued", || {
        let shown = node.kubectl("get csr --no-headers")?;
        let line = |name: &str| {
            shown
                .lines()
                .find(|l| l.starts_with(name))
                .unwrap_or_default()
                .to_owned()
        };
        ensure!(
            line("jane").contains("Approved,Issued") && line("joe").contains("Denied"),
            "{shown}"
        );
        Ok(())
    })?;
    let folder = node.file("").display().to_string();
    node.sh(&format!(
        "cd {folder} && kubectl get csr jane -o jsonpath={{.status.certificate}} | base64 -d > jane.crt && \
         openssl x509 -in jane.crt -noout -subject | grep -q 'O *= *dev, O *= *ops, CN *= *jane'"
    ))?;
    let as_jane = |words: &str| {
        let mut all = vec![
            "--kubeconfig=/tmp/jane.conf".to_owned(),
            format!("--client-certificate={folder}/jane.crt"),
            format!("--client-key={folder}/jane.key"),
        ];
        all.extend(words.split(' ').map(str::to_owned));
        run(node.command("kubectl").args(&all))
    };
    // Where the server is, and nobody's credentials.
    node.sh("kubectl config view --raw --minify --flatten > /tmp/jane.conf && \
         kubectl --kubeconfig=/tmp/jane.conf config unset users >/dev/null")?;
    let me = as_jane("auth whoami -o jsonpath={.status.userInfo.username}{.status.userInfo.groups}")?;
    ensure!(
        me.starts_with("jane") && me.contains("dev") && me.contains("ops"),
        "{me}"
    );
    let refused = as_jane("get pods").err().context("jane may do nothing yet")?;
    ensure!(
        format!("{refused:#}").contains("User \"jane\" cannot list resource \"pods\""),
        "{refused:#}"
    );
    node.kubectl("create clusterrolebinding ops-view --clusterrole=view --group=ops")?;
    eventually("her group gives her rights", || as_jane("get pods -A").map(drop))?;
    node.kubectl("delete clusterrolebinding ops-view")?;
    node.kubectl("delete csr jane joe")?;
    Ok(())
}
