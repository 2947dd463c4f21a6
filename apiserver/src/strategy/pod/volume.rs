//! Volumes of a pod: their sources and what containers mount of them.

use std::collections::{BTreeMap, BTreeSet};

use api::quantity::Quantity;

use super::super::field::Field;
use super::super::{format, resources};
use super::env;
use crate::status::Errors;

/// Sources in the order in which upstream looks at them: the second one found is the one refused.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "flocker",
    "downwardAPI",
    "fc",
    "configMap",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "projected",
    "portworxVolume",
    "scaleIO",
    "storageos",
    "csi",
    "ephemeral",
    "image",
];

/// The sources of the good volumes by name: what a container can mount.
pub(super) type Volumes<'v> = BTreeMap<&'v str, Field<'v, 'static>>;

pub(super) fn volumes<'v>(field: &Field<'v, '_>, in_template: bool, errors: &mut Errors) -> Volumes<'v> {
    let mut good = Volumes::new();
    for volume in field.items() {
        let mut own = Errors::default();
        let name = volume.get("name");
        source(&volume, in_template, &mut own);
        if name.str().is_empty() {
            name.required(&mut own, "");
        } else {
            name.each_invalid(&mut own, format::dns_label(name.str()));
        }
        if good.contains_key(name.str()) {
            name.duplicate(&mut own);
        }
        if own.is_empty() {
            good.insert(name.str(), Field::at(volume.value(), "volume"));
        } else {
            errors.extend(own);
        }
    }
    good
}

fn required(field: &Field, names: &[&str], errors: &mut Errors) {
    for name in names {
        if field.get(name).is_zero() {
            field.get(name).required(errors, "");
        }
    }
}

fn source(volume: &Field, in_template: bool, errors: &mut Errors) {
    let mut found = SOURCES.iter().filter(|source| volume.get(source).present());
    let Some(first) = found.next() else {
        return volume.required(errors, "must specify a volume type");
    };
    for second in found {
        volume
            .get(second)
            .forbidden(errors, "may not specify more than 1 volume type");
    }
    let field = volume.get(first);
    match *first {
        "emptyDir" => {
            let limit = field.get("sizeLimit");
            if resources::quantity(&limit).is_some_and(|size| size < Quantity::ZERO) {
                limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => host_path(&field, errors),
        "secret" => {
            required(&field, &["secretName"], errors);
            items(&field, errors);
        }
        "configMap" => {
            required(&field, &["name"], errors);
            items(&field, errors);
        }
        "persistentVolumeClaim" => required(&field, &["claimName"], errors),
        "downwardAPI" => {
            mode(&field.get("defaultMode"), errors);
            for file in field.get("items").items() {
                downward_file(&file, errors);
            }
        }
        "projected" => projected(&field, errors),
        "csi" => {
            csi_driver(&field.get("driver"), errors);
            let secret = field.get("nodePublishSecretRef");
            if secret.present() {
                required(&secret, &["name"], errors);
            }
        }
        "ephemeral" => {
            let template = field.get("volumeClaimTemplate");
            if template.present() {
                super::super::volume::claim_spec(&template.get("spec"), errors);
            } else {
                template.required(errors, "");
            }
        }
        "image" => {
            let policy = field.get("pullPolicy");
            if !in_template {
                required(&field, &["reference"], errors);
            }
            if policy.present() {
                super::container::pull_policy(&policy, errors);
            }
        }
        other => legacy_source(other, &field, errors),
    }
}

/// Sources that a pod and a PersistentVolume share.
pub(in super::super) fn legacy_source(kind: &str, field: &Field, errors: &mut Errors) {
    match kind {
        "nfs" => {
            required(field, &["server", "path"], errors);
            let path = field.get("path");
            if !path.str().is_empty() && !path.str().starts_with('/') {
                path.invalid(errors, "must be an absolute path");
            }
        }
        "iscsi" => {
            required(field, &["targetPortal", "iqn"], errors);
            let (iqn, lun) = (field.get("iqn"), field.get("lun"));
            let known = ["iqn", "eui", "naa"].iter().any(|kind| iqn.str().starts_with(kind));
            if !iqn.str().is_empty() && !known {
                iqn.invalid(errors, "must be valid format starting with iqn, eui, or naa");
            }
            if !(0..=255).contains(&lun.number()) {
                lun.invalid(errors, "must be between 0 and 255, inclusive");
            }
        }
        "gcePersistentDisk" => {
            required(field, &["pdName"], errors);
            partition(&field.get("partition"), errors);
        }
        "awsElasticBlockStore" => {
            required(field, &["volumeID"], errors);
            partition(&field.get("partition"), errors);
        }
        "glusterfs" => required(field, &["endpoints", "path"], errors),
        "cephfs" => required(field, &["monitors"], errors),
        "rbd" => required(field, &["monitors", "image"], errors),
        "cinder" | "portworxVolume" => required(field, &["volumeID"], errors),
        "gitRepo" => {
            required(field, &["repository"], errors);
            descending_path(&field.get("directory"), errors);
        }
        "flexVolume" => required(field, &["driver"], errors),
        "azureFile" => required(field, &["secretName", "shareName"], errors),
        "azureDisk" => required(field, &["diskName", "diskURI"], errors),
        "vsphereVolume" => required(field, &["volumePath"], errors),
        "photonPersistentDisk" => required(field, &["pdID"], errors),
        "quobyte" => required(field, &["registry", "volume"], errors),
        "scaleIO" => required(field, &["gateway", "system", "volumeName"], errors),
        "flocker" if field.get("datasetName").is_zero() && field.get("datasetUUID").is_zero() => {
            field.required(errors, "one of datasetName and datasetUUID is required");
        }
        "fc" if field.get("targetWWNs").is_empty() && field.get("wwids").is_empty() => {
            field
                .get("targetWWNs")
                .required(errors, "must specify either targetWWNs or wwids, but not both");
        }
        _ => {}
    }
}

fn partition(field: &Field, errors: &mut Errors) {
    if !(0..=255).contains(&field.number()) {
        field.invalid(errors, "must be between 1 and 255, inclusive");
    }
}

pub(in super::super) fn host_path(field: &Field, errors: &mut Errors) {
    let path = field.get("path");
    if path.str().is_empty() {
        path.required(errors, "");
        return;
    }
    no_backsteps(&path, errors);
    let kind = field.get("type");
    if !kind.str().is_empty() {
        kind.one_of(
            errors,
            &[
                "",
                "BlockDevice",
                "CharDevice",
                "Directory",
                "DirectoryOrCreate",
                "File",
                "FileOrCreate",
                "Socket",
            ],
        );
    }
}

/// The name of a CSI driver.
pub(in super::super) fn csi_driver(field: &Field, errors: &mut Errors) {
    let name = field.str();
    if name.is_empty() {
        return field.required(errors, "");
    }
    if name.len() > 63 {
        errors.too_long(field, 63);
    }
    field.each_invalid(errors, format::dns_subdomain(&name.to_lowercase()));
}

/// A file's permission bits.
fn mode(field: &Field, errors: &mut Errors) {
    if field.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        field.invalid(errors, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// `defaultMode` and `items` of a configMap or secret volume.
fn items(field: &Field, errors: &mut Errors) {
    mode(&field.get("defaultMode"), errors);
    key_paths(&field.get("items"), errors);
}

fn key_paths(list: &Field, errors: &mut Errors) {
    for item in list.items() {
        if item.get("key").str().is_empty() {
            item.get("key").required(errors, "");
        }
        file_path(&item.get("path"), errors);
        mode(&item.get("mode"), errors);
    }
}

/// A relative path that stays inside and leaves `..data` alone.
fn file_path(path: &Field, errors: &mut Errors) {
    if path.str().is_empty() {
        return path.required(errors, "");
    }
    descending_path(path, errors);
    if path.str().starts_with("..") && !path.str().starts_with("../") {
        path.invalid(errors, "must not start with '..'");
    }
}

/// A relative path that does not climb.
pub(super) fn descending_path(path: &Field, errors: &mut Errors) {
    if path.str().starts_with('/') {
        path.invalid(errors, "must be a relative path");
    }
    no_backsteps(path, errors);
}

pub(in super::super) fn no_backsteps(path: &Field, errors: &mut Errors) {
    if path.str().split('/').any(|step| step == "..") {
        path.invalid(errors, "must not contain '..'");
    }
}

fn downward_file(file: &Field, errors: &mut Errors) {
    file_path(&file.get("path"), errors);
    let (own, resource) = (file.get("fieldRef"), file.get("resourceFieldRef"));
    match (own.present(), resource.present()) {
        (true, other) => {
            env::field_ref(&own, env::VOLUME_FIELDS, errors);
            if other {
                file.invalid_as(
                    errors,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
        }
        (false, true) => env::resource_ref(&resource, true, errors),
        (false, false) => file.required(errors, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(&file.get("mode"), errors);
}

fn projected(field: &Field, errors: &mut Errors) {
    mode(&field.get("defaultMode"), errors);
    let mut taken = BTreeSet::new();
    for source in field.get("sources").items() {
        let mut kinds = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let projection = source.get(kind);
            if !projection.present() {
                continue;
            }
            kinds += 1;
            if kinds > 1 {
                projection.forbidden(errors, "may not specify more than 1 volume type");
                continue;
            }
            let mut paths = Vec::new();
            match kind {
                "secret" | "configMap" => {
                    required(&projection, &["name"], errors);
                    key_paths(&projection.get("items"), errors);
                    paths.extend(
                        projection
                            .get("items")
                            .items()
                            .map(|item| item.get("path").str().to_owned()),
                    );
                }
                "downwardAPI" => {
                    for file in projection.get("items").items() {
                        downward_file(&file, errors);
                        paths.push(file.get("path").str().to_owned());
                    }
                }
                "serviceAccountToken" => {
                    let seconds = projection.get("expirationSeconds");
                    match seconds.int() {
                        Some(..600) => seconds.invalid(errors, "may not specify a duration less than 10 minutes"),
                        Some(4_294_967_297..) => {
                            seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
                        }
                        _ => {}
                    }
                    let path = projection.get("path");
                    if path.str().is_empty() {
                        path.required(errors, "");
                    } else {
                        descending_path(&path, errors);
                    }
                    paths.push(path.str().to_owned());
                }
                "clusterTrustBundle" => {
                    let (name, signer) = (projection.get("name"), projection.get("signerName"));
                    if name.present() == signer.present() {
                        projection.required(errors, "exactly one of name and signerName must be specified");
                    }
                    file_path(&projection.get("path"), errors);
                    paths.push(projection.get("path").str().to_owned());
                }
                _ => required(&projection, &["signerName", "keyType"], errors),
            }
            for path in paths.into_iter().filter(|path| !path.is_empty()) {
                if !taken.insert(path.clone()) {
                    projection.invalid_as(errors, path, "conflicting duplicate paths");
                }
            }
        }
    }
}

/// `volumeMounts` and `volumeDevices` of a container.
pub(super) fn mounts(container: &Field, volumes: &Volumes, errors: &mut Errors) {
    let (mounts, devices) = (container.get("volumeMounts"), container.get("volumeDevices"));
    let mut taken = BTreeSet::new();
    for mount in mounts.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.str().is_empty() {
            name.required(errors, "");
        }
        if !volumes.contains_key(name.str()) {
            name.not_found(errors);
        }
        if path.str().is_empty() {
            path.required(errors, "");
        }
        if !taken.insert(path.str()) {
            path.invalid(errors, "must be unique");
        }
        for device in devices.items() {
            if device.get("name").str() == name.str() {
                name.invalid(errors, "must not already exist in volumeDevices");
            }
            if device.get("devicePath").str() == path.str() {
                path.invalid(errors, "must not already exist as a path in volumeDevices");
            }
        }
        // Upstream names the list in these three, without the index.
        let (sub, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
        descending_path(&mounts.get("subPath").with(sub.value()), errors);
        if !expression.str().is_empty() {
            if !sub.str().is_empty() {
                expression.invalid(errors, "subPathExpr and subPath are mutually exclusive");
            }
            descending_path(&mounts.get("subPathExpr").with(expression.value()), errors);
        }
        let propagation = mounts.get("mountPropagation");
        let propagation = propagation.with(mount.get("mountPropagation").value());
        if propagation.present() {
            propagation.one_of(errors, &["Bidirectional", "HostToContainer", "None"]);
            if propagation.str() == "Bidirectional" && !container.get("securityContext.privileged").is_true() {
                propagation.forbidden(
                    errors,
                    "Bidirectional mount propagation is available only to privileged containers",
                );
            }
        }
        let recursive = mount.get("recursiveReadOnly");
        match recursive.str() {
            "" | "Disabled" => {}
            "Enabled" | "IfPossible" => {
                if !mount.get("readOnly").is_true() {
                    recursive.forbidden(errors, "may only be specified when readOnly is true");
                }
                if !matches!(mount.get("mountPropagation").str(), "" | "None") {
                    recursive.forbidden(
                        errors,
                        "may only be specified when mountPropagation is None or not specified",
                    );
                }
            }
            _ => recursive.unsupported(errors, &["Disabled", "Enabled", "IfPossible"]),
        }
    }
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in devices.items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if name.str().is_empty() {
            name.required(errors, "");
        }
        if !names.insert(name.str()) {
            name.invalid(errors, "must be unique");
        }
        match volumes.get(name.str()) {
            None => name.not_found(errors),
            Some(volume) if !volume.get("persistentVolumeClaim").present() && !volume.get("ephemeral").present() => {
                name.invalid(
                    errors,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                );
            }
            Some(_) => {}
        }
        if path.str().is_empty() {
            path.required(errors, "");
        }
        if !path.str().is_empty() && !paths.insert(path.str()) {
            path.invalid(errors, "must be unique");
        }
        if path.str().split('/').any(|step| step == "..") {
            path.invalid(errors, "can not contain backsteps ('..')");
        }
    }
}
