//! Paths and operations: enough for clients to find a kind's resource, its verbs and the parameters that they probe for.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::table::TypeRef;
use super::types::{Name, kind};
use super::{Form, Members, Resource, Subresource, list_of};

const PRODUCES: &[&str] = &["application/json", "application/yaml"];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Query parameters: name, type, what it is for.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', the output is indented.");
const DRY_RUN: Parameter = ("dryRun", "string", "With 'All' nothing is stored; every check runs.");
const FIELD_MANAGER: Parameter = ("fieldManager", "string", "The name of the actor that makes the change.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What happens to unknown and duplicate fields: Ignore, Warn or Strict.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Whether an apply takes fields over from other managers.",
);
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean", "Whether a watch may send bookmarks."),
    ("continue", "string", "Where the next page starts."),
    ("fieldSelector", "string", "Restricts the list by fields."),
    ("labelSelector", "string", "Restricts the list by labels."),
    ("limit", "integer", "The most objects that one answer holds."),
    ("resourceVersion", "string", "How fresh the answer must be."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant."),
    (
        "sendInitialEvents",
        "boolean",
        "Whether a watch starts with what is there.",
    ),
    ("timeoutSeconds", "integer", "How long the call may take."),
];
const WATCH: Parameter = ("watch", "boolean", "Whether changes are sent as they happen.");
const DELETE: &[Parameter] = &[
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "Seconds before the object is deleted."),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Whether an object that cannot be read is deleted.",
    ),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    (
        "propagationPolicy",
        "string",
        "What happens to dependents: Orphan, Background or Foreground.",
    ),
];

struct Writer<'a> {
    form: Form,
    needed: &'a mut BTreeSet<Name>,
    /// `CoreV1`, `AppsV1`.
    tag: String,
    title: String,
}

pub(super) fn write(
    form: Form,
    root: &str,
    resources: &[&Resource],
    needed: &mut BTreeSet<Name>,
    out: &mut dyn Members,
) {
    let parts: Vec<&str> = root.split('/').collect();
    let (group, version) = match parts[..] {
        ["api", version] => ("", version),
        ["apis", group, version] => (group, version),
        ["apis", group] => (group, ""),
        _ => ("", ""),
    };
    let plain_group = match group.strip_suffix(".k8s.io").unwrap_or(group) {
        "" => "core",
        other => other,
    };
    let title: String = plain_group.split('.').map(capital).collect();
    let mut writer = Writer {
        form,
        needed,
        tag: match (root, version) {
            ("apis" | "version", _) => root.to_owned(),
            (_, "") => lower_first(&title),
            _ => format!("{}_{version}", lower_first(&title)),
        },
        title: format!("{title}{}", capital(version)),
    };
    // What a client finds at the root: versions, a group, or a list of resources.
    let (id, what) = match parts[..] {
        ["version"] => ("getCodeVersion".to_owned(), "version.Info"),
        ["api"] => ("getCoreAPIVersions".into(), "meta/v1.APIVersions"),
        ["apis"] => ("getAPIVersions".into(), "meta/v1.APIGroupList"),
        ["apis", _] => (format!("get{title}APIGroup"), "meta/v1.APIGroup"),
        _ => (format!("get{}APIResources", writer.title), "meta/v1.APIResourceList"),
    };
    let ty = TypeRef::by_id(what).expect("a type of the table");
    let get = writer.operation(&id, None, &[], None, Some(Name::of(ty)), &["200"]);
    out.member(&format!("/{root}/"), &json!({"get": get}));
    for resource in resources {
        writer.resource(root, resource, out);
    }
}

impl Writer<'_> {
    fn resource(&mut self, root: &str, resource: &Resource, out: &mut dyn Members) {
        let has = |verb: &str| resource.verbs.iter().any(|v| v == verb);
        let Some(own) = kind(&resource.group, &resource.version, &resource.kind) else {
            return;
        };
        let list = list_of(resource).map_or(own, Name::of);
        let gvk = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let (title, name) = (self.title.clone(), &resource.kind);
        let collection = if resource.namespaced {
            format!("/{root}/namespaces/{{namespace}}/{}", resource.plural)
        } else {
            format!("/{root}/{}", resource.plural)
        };
        let single = format!("{collection}/{{name}}");
        let options = Some(Name::of(
            TypeRef::by_id("meta/v1.DeleteOptions").expect("a type of the table"),
        ));
        let status = Some(Name::of(TypeRef::by_id("meta/v1.Status").expect("a type of the table")));
        let listing: Vec<Parameter> = if has("watch") {
            let event = TypeRef::by_id("meta/v1.WatchEvent").expect("a type of the table");
            self.needed.insert(Name::of(event));
            LIST.iter().copied().chain([WATCH]).collect()
        } else {
            LIST.to_vec()
        };

        let mut item = Map::new();
        if has("list") {
            let id = format!("list{title}{scope}{name}");
            item.insert(
                "get".into(),
                self.operation(&id, Some(("list", &gvk)), &listing, None, Some(list), &["200"]),
            );
        }
        if has("create") {
            let id = format!("create{title}{scope}{name}");
            let asked = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
            item.insert(
                "post".into(),
                self.operation(
                    &id,
                    Some(("post", &gvk)),
                    &asked,
                    Some((own, true)),
                    Some(own),
                    &["200", "201", "202"],
                ),
            );
        }
        if has("deletecollection") {
            let id = format!("delete{title}Collection{scope}{name}");
            let asked: Vec<Parameter> = LIST[1..].iter().chain(DELETE).copied().collect();
            let body = options.map(|o| (o, false));
            item.insert(
                "delete".into(),
                self.operation(&id, Some(("deletecollection", &gvk)), &asked, body, status, &["200"]),
            );
        }
        self.path(&collection, item, out);

        let mut item = Map::new();
        self.single(&mut item, &resource.verbs, &format!("{title}{scope}{name}"), own, &gvk);
        if has("delete") {
            let id = format!("delete{title}{scope}{name}");
            let body = options.map(|o| (o, false));
            item.insert(
                "delete".into(),
                self.operation(&id, Some(("delete", &gvk)), DELETE, body, status, &["200", "202"]),
            );
        }
        self.path(&single, item, out);

        for sub in &resource.subresources {
            self.subresource(&single, &format!("{title}{scope}{name}"), sub, out);
        }
        if resource.namespaced && has("list") {
            let id = format!("list{title}{name}ForAllNamespaces");
            let get = self.operation(&id, Some(("list", &gvk)), &listing, None, Some(list), &["200"]);
            let mut item = Map::new();
            item.insert("get".into(), get);
            self.path(&format!("/{root}/{}", resource.plural), item, out);
        }
    }

    /// get, put and patch of one object.
    fn single(&mut self, item: &mut Map<String, Value>, verbs: &[String], suffix: &str, own: Name, gvk: &Value) {
        let has = |verb: &str| verbs.iter().any(|v| v == verb);
        if has("get") {
            let get = self.operation(
                &format!("read{suffix}"),
                Some(("get", gvk)),
                &[],
                None,
                Some(own),
                &["200"],
            );
            item.insert("get".into(), get);
        }
        if has("update") {
            let asked = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
            let id = format!("replace{suffix}");
            item.insert(
                "put".into(),
                self.operation(
                    &id,
                    Some(("put", gvk)),
                    &asked,
                    Some((own, true)),
                    Some(own),
                    &["200", "201"],
                ),
            );
        }
        if has("patch") {
            let asked = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
            let id = format!("patch{suffix}");
            item.insert(
                "patch".into(),
                self.operation(
                    &id,
                    Some(("patch", gvk)),
                    &asked,
                    Some((Name::Patch, true)),
                    Some(own),
                    &["200", "201"],
                ),
            );
        }
    }

    fn subresource(&mut self, single: &str, suffix: &str, sub: &Subresource, out: &mut dyn Members) {
        let Some(own) = kind(&sub.group, &sub.version, &sub.kind) else {
            return;
        };
        let gvk = json!({"group": sub.group, "version": sub.version, "kind": sub.kind});
        let path = format!("{single}/{}", sub.name);
        let name = capital(&sub.name);
        if !sub.verbs.iter().any(|v| v == "connect") {
            let mut item = Map::new();
            self.single(&mut item, &sub.verbs, &format!("{suffix}{name}"), own, &gvk);
            if sub.verbs.iter().any(|v| v == "create") {
                let id = format!("create{suffix}{name}");
                let asked = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
                item.insert(
                    "post".into(),
                    self.operation(
                        &id,
                        Some(("post", &gvk)),
                        &asked,
                        Some((own, true)),
                        Some(own),
                        &["200", "201", "202"],
                    ),
                );
            }
            self.path(&path, item, out);
            return;
        }
        let proxy = sub.name == "proxy";
        let methods: &[&str] = if proxy {
            &["delete", "get", "head", "options", "patch", "post", "put"]
        } else {
            &["get", "post"]
        };
        let base = suffix.strip_prefix(&self.title).unwrap_or(suffix);
        for (path, tail) in [(path.clone(), ""), (format!("{path}/{{path}}"), "WithPath")] {
            if !tail.is_empty() && !proxy {
                continue;
            }
            let mut item = Map::new();
            for method in methods {
                let id = format!("connect{}{}{base}{name}{tail}", self.title, capital(method));
                item.insert(
                    (*method).into(),
                    self.operation(&id, Some(("connect", &gvk)), &[], None, None, &["200"]),
                );
            }
            self.path(&path, item, out);
        }
    }

    /// A path with the parameters that all its operations share.
    fn path(&self, path: &str, mut item: Map<String, Value>, out: &mut dyn Members) {
        if item.is_empty() {
            return;
        }
        let mut shared = Vec::new();
        for (name, what) in [
            ("name", "The name of the object"),
            ("namespace", "The object's namespace"),
            ("path", "The path behind the proxy"),
        ] {
            if path.contains(&format!("{{{name}}}")) {
                let mut made = json!({"name": name, "in": "path", "required": true, "description": what});
                self.typed(&mut made, "string");
                shared.push(made);
            }
        }
        shared.push(self.query(PRETTY));
        item.insert("parameters".into(), Value::Array(shared));
        out.member(path, &Value::Object(item));
    }

    fn query(&self, (name, ty, what): Parameter) -> Value {
        let mut made = json!({"name": name, "in": "query", "description": what});
        self.typed(&mut made, ty);
        made
    }

    fn typed(&self, made: &mut Value, ty: &str) {
        match self.form {
            Form::V2 => {
                made["type"] = ty.into();
                made["uniqueItems"] = true.into();
            }
            Form::V3 => made["schema"] = json!({"type": ty, "uniqueItems": true}),
        }
    }

    fn operation(
        &mut self,
        id: &str,
        about: Option<(&str, &Value)>,
        asked: &[Parameter],
        body: Option<(Name, bool)>,
        answer: Option<Name>,
        codes: &[&str],
    ) -> Value {
        let mut made = Map::new();
        made.insert("operationId".into(), id.into());
        made.insert("tags".into(), json!([self.tag]));
        let mut parameters: Vec<Value> = asked.iter().map(|p| self.query(*p)).collect();
        let is_patch = matches!(body, Some((Name::Patch, _)));
        if let Some((body, required)) = body {
            self.needed.insert(body);
            let schema = self.form.reference(&body.full());
            match self.form {
                Form::V2 => {
                    let mut sent = json!({"name": "body", "in": "body", "schema": schema});
                    if required {
                        sent["required"] = true.into();
                    }
                    parameters.push(sent);
                }
                Form::V3 => {
                    let types = if is_patch { PATCHES } else { &["*/*"] };
                    let content: Map<String, Value> = types
                        .iter()
                        .map(|t| ((*t).to_owned(), json!({"schema": schema})))
                        .collect();
                    let mut sent = json!({"content": content});
                    if required {
                        sent["required"] = true.into();
                    }
                    made.insert("requestBody".into(), sent);
                }
            }
        }
        if !parameters.is_empty() {
            made.insert("parameters".into(), Value::Array(parameters));
        }
        let mut responses = Map::new();
        for code in codes {
            let what = match *code {
                "201" => "Created",
                "202" => "Accepted",
                _ => "OK",
            };
            let mut response = json!({"description": what});
            if let Some(name) = answer {
                self.needed.insert(name);
                let schema = self.form.reference(&name.full());
                match self.form {
                    Form::V2 => response["schema"] = schema,
                    Form::V3 => {
                        let content: Map<String, Value> = PRODUCES
                            .iter()
                            .map(|t| ((*t).to_owned(), json!({"schema": schema})))
                            .collect();
                        response["content"] = Value::Object(content);
                    }
                }
            }
            responses.insert((*code).into(), response);
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        made.insert("responses".into(), Value::Object(responses));
        if self.form == Form::V2 {
            made.insert("schemes".into(), json!(["https"]));
            made.insert("produces".into(), json!(PRODUCES));
            made.insert(
                "consumes".into(),
                if is_patch { json!(PATCHES) } else { json!(["*/*"]) },
            );
        }
        if let Some((action, gvk)) = about {
            made.insert("x-kubernetes-action".into(), action.into());
            made.insert("x-kubernetes-group-version-kind".into(), gvk.clone());
        }
        Value::Object(made)
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn lower_first(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
