//! Persistent volumes, claims and storage.k8s.io.

use std::collections::BTreeSet;

use api::quantity::Quantity;
use serde_json::{Value, json};

use super::field::{Field, IMMUTABLE, same};
use super::resources::{self, quantity};
use super::{Context, Shape, Strategy, format, meta, pod};
use crate::object::Object;
use crate::status::Errors;

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(field: &Field, errors: &mut Errors) {
    for mode in field.strings().filter(|mode| !ACCESS_MODES.contains(mode)) {
        errors.unsupported(field, &mode.into(), ACCESS_MODES);
    }
    let once = field.strings().any(|mode| mode == "ReadWriteOncePod");
    if once && field.strings().any(|mode| mode != "ReadWriteOncePod") {
        field.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

fn class_name(field: &Field, errors: &mut Errors) {
    if !field.str().is_empty() {
        field.each_invalid(errors, format::dns_subdomain(field.str()));
    }
}

fn volume_mode(field: &Field, errors: &mut Errors) {
    if field.present() {
        field.one_of(errors, &["Block", "Filesystem"]);
    }
}

/// PersistentVolumeClaimSpec, also of ephemeral volumes and StatefulSets.
pub fn claim_spec(spec: &Field, errors: &mut Errors) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        modes.required(errors, "at least 1 access mode is required");
    }
    access_modes(&modes, errors);
    meta::label_selector(&spec.get("selector"), errors);
    // Upstream leaves `requests` out of this path.
    let (all, asked) = (spec.get("resources"), spec.get("resources.requests.storage"));
    let storage = all.key("storage").with(asked.value());
    match quantity(&storage) {
        None => storage.required(errors, ""),
        Some(amount) if amount <= Quantity::ZERO => storage.invalid(errors, "must be greater than zero"),
        Some(_) => {}
    }
    class_name(&spec.get("storageClassName"), errors);
    class_name(&spec.get("volumeAttributesClassName"), errors);
    volume_mode(&spec.get("volumeMode"), errors);
    for name in ["dataSource", "dataSourceRef"] {
        let source = spec.get(name);
        if !source.present() {
            continue;
        }
        for part in ["name", "kind"] {
            if source.get(part).str().is_empty() {
                source.get(part).required(errors, "");
            }
        }
        let group = source.get("apiGroup");
        if group.str().is_empty() && source.get("kind").str() != "PersistentVolumeClaim" {
            source.invalid_as(
                errors,
                source.get("kind").str(),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        } else if !group.str().is_empty() {
            group.each_invalid(errors, format::dns_subdomain(group.str()));
        }
    }
}

#[derive(Debug)]
pub struct Claims;

impl Strategy for Claims {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn default(&self, new: &mut Object) {
        // Two names of one wish: each is filled from the other where that can be said.
        let spec = new.entry("spec");
        let (old, new) = (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned());
        match (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null())) {
            (Some(source), None) => {
                spec.insert("dataSourceRef".into(), source);
            }
            (None, Some(source)) if source.get("namespace").is_none_or(|n| n == "") => {
                let group = source.get("apiGroup").and_then(Value::as_str).unwrap_or("");
                let kind = source.get("kind").and_then(Value::as_str).unwrap_or("");
                let known = matches!(
                    (group, kind),
                    ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
                );
                if known {
                    spec.insert("dataSource".into(), source);
                }
            }
            _ => {}
        }
    }
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        new.0.insert("status".into(), json!({"phase": "Pending"}));
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        claim_spec(&Field::root(new, "spec"), errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            let status = Field::root(new, "status");
            access_modes(&status.get("accessModes"), errors);
            for (name, amount) in status.get("capacity").entries() {
                resources::amount(&amount, name, errors);
            }
            return;
        }
        self.validate(context, new, errors);
        let (spec, was) = (Field::root(new, "spec"), Field::root(old, "spec"));
        let mut now = spec.value().cloned().unwrap_or_default();
        let before = was.value().cloned().unwrap_or_default();
        // The binder writes the volume's name; a bound claim may grow and change its class of service.
        if was.get("volumeName").str().is_empty() {
            set(&mut now, "volumeName", before.get("volumeName"));
        }
        if was.get("storageClassName").value().is_none()
            && spec.get("storageClassName").present()
            && was.get("volumeName").str().is_empty()
        {
            set(&mut now, "storageClassName", None);
        }
        if old.str_at(&["status", "phase"]) == "Bound"
            && let (Some(target), Some(value)) = (now.get_mut("resources"), before.get("resources"))
        {
            set(target, "requests", value.get("requests"));
        }
        set(
            &mut now,
            "volumeAttributesClassName",
            before.get("volumeAttributesClassName"),
        );
        if !same(Some(&now), Some(&before)) {
            spec.forbidden(
                errors,
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            );
        }
        let (asked, had) = (
            spec.get("resources.requests.storage"),
            was.get("resources.requests.storage"),
        );
        let capacity = Field::root(old, "status.capacity.storage");
        if let (Some(asked_amount), Some(had_amount)) = (quantity(&asked), quantity(&had)) {
            let floor = quantity(&capacity).unwrap_or(had_amount);
            if asked_amount < had_amount && asked_amount <= floor {
                asked.forbidden(errors, "field can not be less than status.capacity");
            }
        }
    }
}

fn set(target: &mut Value, name: &str, value: Option<&Value>) {
    if let Some(map) = target.as_object_mut() {
        match value {
            Some(value) => map.insert(name.into(), value.clone()),
            None => map.remove(name),
        };
    }
}

/// Sources of a PersistentVolume, in upstream's order.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

#[derive(Debug)]
pub struct Volumes;

impl Strategy for Volumes {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn prepare_create(&self, context: &Context<'_>, new: &mut Object) {
        new.0.insert(
            "status".into(),
            json!({"phase": "Pending", "lastPhaseTransitionTime": meta::seconds(context.now)}),
        );
    }
    fn prepare_update(&self, context: &Context<'_>, new: &mut Object, old: &Object) {
        self.shape().prepare_update(context, new, old);
        let changed = new.str_at(&["status", "phase"]) != old.str_at(&["status", "phase"]);
        let own = same(
            new.at(&["status", "lastPhaseTransitionTime"]),
            old.at(&["status", "lastPhaseTransitionTime"]),
        );
        if context.subresource == "status" && changed && own {
            new.entry("status")
                .insert("lastPhaseTransitionTime".into(), meta::seconds(context.now).into());
        }
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        let modes = spec.get("accessModes");
        if modes.is_empty() {
            modes.required(errors, "");
        }
        access_modes(&modes, errors);
        let capacity = spec.get("capacity");
        if capacity.is_empty() {
            capacity.required(errors, "");
        }
        if !capacity.key("storage").present() || capacity.len() > 1 {
            errors.unsupported(capacity, capacity.shown(), &["storage"]);
        }
        for (_, amount) in capacity.entries() {
            if quantity(&amount).is_some_and(|q| q <= Quantity::ZERO) {
                amount.invalid(errors, "must be greater than zero");
            }
        }
        let policy = spec.get("persistentVolumeReclaimPolicy");
        if !policy.str().is_empty() {
            policy.one_of(errors, &["Delete", "Recycle", "Retain"]);
        }
        let affinity = spec.get("nodeAffinity");
        if affinity.present() {
            if affinity.get("required").present() {
                pod::node_selector(&affinity.get("required"), errors);
            } else {
                affinity
                    .get("required")
                    .required(errors, "must specify required node constraints");
            }
        }
        let mut found = SOURCES.iter().filter(|source| spec.get(source).present());
        match found.next() {
            None => spec.required(errors, "must specify a volume type"),
            Some(kind) => volume_source(kind, &spec, errors),
        }
        for second in found {
            spec.get(second)
                .forbidden(errors, "may not specify more than 1 volume type");
        }
        let path = spec.get("hostPath.path");
        if path.present() && format::clean_path(path.str()) == "/" && policy.str() == "Recycle" {
            policy.forbidden(errors, "may not be 'recycle' for a hostPath mount of '/'");
        }
        class_name(&spec.get("storageClassName"), errors);
        volume_mode(&spec.get("volumeMode"), errors);
        let attributes = spec.get("volumeAttributesClassName");
        if attributes.present() {
            if attributes.str().is_empty() {
                attributes.required(errors, "an empty string is disallowed");
            }
            class_name(&attributes, errors);
            if !spec.get("csi").present() {
                spec.get("csi")
                    .required(errors, "has to be specified when using volumeAttributesClassName");
            }
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        if context.subresource == "status" {
            return;
        }
        self.validate(context, new, errors);
        let (spec, was) = (Field::root(new, "spec"), Field::root(old, "spec"));
        if SOURCES
            .iter()
            .any(|source| !same(spec.get(source).value(), was.get(source).value()))
        {
            spec.get("persistentvolumesource")
                .forbidden(errors, "spec.persistentvolumesource is immutable after creation");
        }
        let mode = spec.get("volumeMode");
        if !same(mode.value(), was.get("volumeMode").value()) {
            mode.invalid(errors, IMMUTABLE);
        }
        let affinity = spec.get("nodeAffinity");
        if was.get("nodeAffinity").present() && !same(affinity.value(), was.get("nodeAffinity").value()) {
            affinity.invalid(errors, IMMUTABLE);
        }
    }
}

fn volume_source(kind: &str, spec: &Field, errors: &mut Errors) {
    let field = spec.get(kind);
    match kind {
        "hostPath" => pod::host_path(&field, errors),
        "local" => {
            let path = field.get("path");
            if path.str().is_empty() {
                path.required(errors, "");
            } else {
                pod::no_backsteps(&path, errors);
            }
            if !spec.get("nodeAffinity.required").present() {
                spec.get("nodeAffinity")
                    .required(errors, "Local volume requires node affinity");
            }
        }
        "csi" => {
            pod::csi_driver(&field.get("driver"), errors);
            if field.get("volumeHandle").str().is_empty() {
                field.get("volumeHandle").required(errors, "");
            }
            for secret in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeStageSecretRef",
                "nodeExpandSecretRef",
            ] {
                let secret = field.get(secret);
                for part in ["name", "namespace"] {
                    if secret.present() && secret.get(part).str().is_empty() {
                        secret.get(part).required(errors, "");
                    }
                }
            }
        }
        other => pod::legacy_source(other, &field, errors),
    }
}

#[derive(Debug)]
pub struct StorageClasses;

impl Strategy for StorageClasses {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let provisioner = Field::root(new, "provisioner");
        if provisioner.str().is_empty() {
            provisioner.required(errors, "");
        } else {
            provisioner.each_invalid(errors, format::qualified_name(&provisioner.str().to_lowercase()));
        }
        parameters(&Field::root(new, "parameters"), false, errors);
        let choice = |name: &str, of: &[&str], errors: &mut Errors| {
            let field = Field::root(new, name);
            if !field.present() {
                field.required(errors, "");
            } else if !field.str().is_empty() {
                field.one_of(errors, of);
            }
        };
        choice("reclaimPolicy", &["Delete", "Retain"], errors);
        choice("volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], errors);
        let topologies = Field::root(new, "allowedTopologies");
        for term in topologies.items() {
            let list = term.get("matchLabelExpressions");
            if list.is_empty() {
                list.required(errors, "");
            }
            let mut keys = BTreeSet::new();
            for expression in list.items() {
                let (key, values) = (expression.get("key"), expression.get("values"));
                key.each_invalid(errors, format::qualified_name(key.str()));
                if !keys.insert(key.str()) {
                    key.duplicate(errors);
                }
                if values.is_empty() {
                    values.required(errors, "");
                }
                let mut seen = BTreeSet::new();
                for value in values.items() {
                    if !seen.insert(value.str()) {
                        value.duplicate(errors);
                    }
                    value.each_invalid(errors, format::label_value(value.str()));
                }
            }
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        for name in ["parameters", "provisioner", "reclaimPolicy"] {
            let field = Field::root(new, name);
            if !same(field.value(), Field::root(old, name).value()) {
                field.forbidden(errors, &format!("updates to {name} are forbidden."));
            }
        }
        let mode = Field::root(new, "volumeBindingMode");
        if !same(mode.value(), old.0.get("volumeBindingMode")) {
            mode.invalid(errors, IMMUTABLE);
        }
    }
}

fn parameters(field: &Field, needed: bool, errors: &mut Errors) {
    let size: usize = field.entries().map(|(key, value)| key.len() + value.str().len()).sum();
    if needed && field.is_empty() {
        field.required(errors, "must contain at least one key/value pair");
    }
    if field.len() > 512 {
        errors.too_many(field, field.len(), 512);
    }
    if field.entries().any(|(key, _)| key.is_empty()) {
        field.invalid_as(errors, "", "field can not be empty.");
    }
    if size > 256 * 1024 {
        errors.too_long(field, 256 * 1024);
    }
}

#[derive(Debug)]
pub struct Drivers;

impl Strategy for Drivers {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        for flag in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
            if !spec.get(flag).present() {
                spec.get(flag).required(errors, "");
            }
        }
        let policy = spec.get("fsGroupPolicy");
        if policy.present() {
            policy.one_of(errors, &["File", "None", "ReadWriteOnceWithFSType"]);
        }
        let modes = spec.get("volumeLifecycleModes");
        for mode in modes
            .strings()
            .filter(|mode| !matches!(*mode, "Ephemeral" | "Persistent"))
        {
            errors.unsupported(modes, &mode.into(), &["Ephemeral", "Persistent"]);
        }
        let mut audiences = BTreeSet::new();
        for request in spec.get("tokenRequests").items() {
            let (audience, seconds) = (request.get("audience"), request.get("expirationSeconds"));
            if !audiences.insert(audience.str()) {
                audience.duplicate(errors);
            }
            match seconds.int() {
                Some(..600) => seconds.invalid(errors, "may not specify a duration less than 10 minutes"),
                Some(4_294_967_297..) => {
                    seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
                }
                _ => {}
            }
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        for name in ["spec.attachRequired", "spec.volumeLifecycleModes"] {
            let field = Field::root(new, name);
            if !same(field.value(), Field::root(old, name).value()) {
                field.invalid(errors, IMMUTABLE);
            }
        }
    }
}

#[derive(Debug)]
pub struct StorageNodes;

impl Strategy for StorageNodes {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let mut names = BTreeSet::new();
        for driver in Field::root(new, "spec.drivers").items() {
            let (name, id) = (driver.get("name"), driver.get("nodeID"));
            pod::csi_driver(&name, errors);
            if id.str().is_empty() {
                id.required(errors, "");
            } else if id.str().len() > 192 {
                id.invalid(errors, "must be 192 characters or less");
            }
            let count = driver.get("allocatable.count");
            if count.int().is_some_and(|n| n < 0) {
                count.invalid(errors, super::field::NEGATIVE);
            }
            if !names.insert(name.str()) {
                name.duplicate(errors);
            }
            let mut keys = BTreeSet::new();
            for key in driver.get("topologyKeys").items() {
                if !keys.insert(key.str()) {
                    key.duplicate(errors);
                }
                key.each_invalid(errors, format::qualified_name(key.str()));
            }
        }
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        let (drivers, was) = (Field::root(new, "spec.drivers"), Field::root(old, "spec.drivers"));
        for before in was.items() {
            let name = before.get("name").str();
            let after = drivers
                .items()
                .find(|d| d.get("name").str() == name)
                .and_then(|d| d.value());
            let unchanged = |what: &str| same(after.and_then(|d| d.get(what)), before.get(what).value());
            if after.is_some() && !(unchanged("nodeID") && unchanged("topologyKeys")) {
                errors.invalid("CSINode.Spec.Drivers", drivers.shown(), IMMUTABLE);
            }
        }
    }
}

#[derive(Debug)]
pub struct Capacities;

impl Strategy for Capacities {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let class = Field::root(new, "storageClassName");
        if class.str().is_empty() {
            class.required(errors, "");
        } else {
            class_name(&class, errors);
        }
        for name in ["capacity", "maximumVolumeSize"] {
            let field = Field::root(new, name);
            if quantity(&field).is_some_and(|q| q < Quantity::ZERO) {
                field.invalid(errors, super::field::NEGATIVE);
            }
        }
        meta::label_selector(&Field::root(new, "nodeTopology"), errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        for name in ["nodeTopology", "storageClassName"] {
            let field = Field::root(new, name);
            if !same(field.value(), old.0.get(name)) {
                field.invalid(errors, IMMUTABLE);
            }
        }
    }
}

#[derive(Debug)]
pub struct Attachments;

impl Strategy for Attachments {
    fn shape(&self) -> Shape {
        Shape::STATUS
    }
    fn prepare_create(&self, _context: &Context<'_>, new: &mut Object) {
        new.0.insert("status".into(), json!({"attached": false}));
    }
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let spec = Field::root(new, "spec");
        pod::csi_driver(&spec.get("attacher"), errors);
        let source = spec.get("source");
        let (inline, name) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
        match (inline.present(), name.present()) {
            (false, false) => source.required(
                errors,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (true, true) => source.invalid(
                errors,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            _ => {}
        }
        if name.present() && name.str().is_empty() {
            name.required(errors, "must specify non empty persistentVolumeName");
        }
        let node = spec.get("nodeName");
        node.each_invalid(errors, format::dns_subdomain(node.str()));
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        if !same(new.0.get("spec"), old.0.get("spec")) {
            Field::root(new, "spec").invalid(errors, IMMUTABLE);
        }
    }
}

#[derive(Debug)]
pub struct AttributesClasses;

impl Strategy for AttributesClasses {
    fn validate(&self, _context: &Context<'_>, new: &Object, errors: &mut Errors) {
        let driver = Field::root(new, "driverName");
        if driver.str().is_empty() {
            driver.required(errors, "");
        } else {
            driver.each_invalid(errors, format::qualified_name(&driver.str().to_lowercase()));
        }
        parameters(&Field::root(new, "parameters"), true, errors);
    }
    fn validate_update(&self, context: &Context<'_>, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(context, new, errors);
        for name in ["driverName", "parameters"] {
            let field = Field::root(new, name);
            if !same(field.value(), old.0.get(name)) {
                field.invalid(errors, IMMUTABLE);
            }
        }
    }
}
