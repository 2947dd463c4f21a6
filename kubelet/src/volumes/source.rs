//! What the files of a volume contain: from ConfigMaps, Secrets, the pod itself and service account tokens.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{
        ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath, Pod, ProjectedVolumeSource,
        SecretVolumeSource, ServiceAccountTokenProjection,
    },
};

use super::{
    Filled,
    atomic::{File, Payload},
    objects::Objects,
    tokens::Tokens,
};
use crate::pods::env;

const MODE: i32 = 0o644;

#[derive(Debug)]
pub struct Context<'a> {
    pub pod: &'a Pod,
    pub uid: &'a str,
    pub world: &'a env::World,
    pub objects: &'a Objects,
    pub tokens: &'a Tokens,
    pub group: Option<u32>,
}

impl Context<'_> {
    pub async fn config_map(&self, source: &ConfigMapVolumeSource) -> Result<Filled, String> {
        let mut files = Payload::new();
        let mode = source.default_mode.unwrap_or(MODE);
        self.add_config_map(&source.name, source.optional, source.items.as_deref(), mode, &mut files)
            .await?;
        Ok(Filled { files, refresh: None })
    }

    pub async fn secret(&self, source: &SecretVolumeSource) -> Result<Filled, String> {
        let mut files = Payload::new();
        let mode = source.default_mode.unwrap_or(MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        self.add_secret(name, source.optional, source.items.as_deref(), mode, &mut files)
            .await?;
        Ok(Filled { files, refresh: None })
    }

    pub fn downward(&self, source: &DownwardAPIVolumeSource) -> Result<Filled, String> {
        let mut files = Payload::new();
        self.add_downward(source.items.as_deref(), source.default_mode.unwrap_or(MODE), &mut files)?;
        Ok(Filled { files, refresh: None })
    }

    pub async fn projected(&self, source: &ProjectedVolumeSource) -> Result<Filled, String> {
        let mut filled = Filled::default();
        let mode = source.default_mode.unwrap_or(MODE);
        for part in source.sources.iter().flatten() {
            let files = &mut filled.files;
            if let Some(map) = &part.config_map {
                self.add_config_map(&map.name, map.optional, map.items.as_deref(), mode, files)
                    .await?;
            } else if let Some(secret) = &part.secret {
                self.add_secret(&secret.name, secret.optional, secret.items.as_deref(), mode, files)
                    .await?;
            } else if let Some(downward) = &part.downward_api {
                self.add_downward(downward.items.as_deref(), mode, files)?;
            } else if let Some(token) = &part.service_account_token {
                let refresh = self.add_token(token, mode, files).await?;
                filled.refresh = [filled.refresh, Some(refresh)].into_iter().flatten().min();
            } else {
                return Err("this kind of projected volume is not supported by this node".to_owned());
            }
        }
        Ok(filled)
    }

    async fn add_config_map(
        &self,
        name: &str,
        optional: Option<bool>,
        items: Option<&[KeyToPath]>,
        mode: i32,
        files: &mut Payload,
    ) -> Result<(), String> {
        let found = self
            .objects
            .config_map(self.namespace(), name, self.uid)
            .await
            .map_err(|e| e.to_string())?;
        let Some(map) = found else {
            return if optional == Some(true) {
                Ok(())
            } else {
                Err(format!("configmap \"{name}\" not found"))
            };
        };
        let text = map
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_bytes()));
        let binary = map
            .binary_data
            .iter()
            .flatten()
            .map(|(key, ByteString(value))| (key.as_str(), value.as_slice()));
        let data: BTreeMap<&str, &[u8]> = text.chain(binary).collect();
        self.add_keys(
            &data,
            items,
            mode,
            optional,
            "configmap references non-existent config key",
            files,
        )
    }

    async fn add_secret(
        &self,
        name: &str,
        optional: Option<bool>,
        items: Option<&[KeyToPath]>,
        mode: i32,
        files: &mut Payload,
    ) -> Result<(), String> {
        let found = self
            .objects
            .secret(self.namespace(), name, self.uid)
            .await
            .map_err(|e| e.to_string())?;
        let Some(secret) = found else {
            return if optional == Some(true) {
                Ok(())
            } else {
                Err(format!("secret \"{name}\" not found"))
            };
        };
        let data = secret
            .data
            .iter()
            .flatten()
            .map(|(key, ByteString(value))| (key.as_str(), value.as_slice()))
            .collect();
        self.add_keys(
            &data,
            items,
            mode,
            optional,
            "references non-existent secret key",
            files,
        )
    }

    fn add_keys(
        &self,
        data: &BTreeMap<&str, &[u8]>,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: Option<bool>,
        missing: &str,
        files: &mut Payload,
    ) -> Result<(), String> {
        match items.filter(|i| !i.is_empty()) {
            None => {
                for (key, value) in data {
                    files.insert((*key).to_owned(), self.file(value.to_vec(), mode));
                }
            }
            Some(items) => {
                for item in items {
                    match data.get(item.key.as_str()) {
                        Some(value) => {
                            files.insert(item.path.clone(), self.file(value.to_vec(), item.mode.unwrap_or(mode)));
                        }
                        None if optional == Some(true) => {}
                        None => return Err(format!("{missing}: {}", item.key)),
                    }
                }
            }
        }
        Ok(())
    }

    fn add_downward(
        &self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: i32,
        files: &mut Payload,
    ) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => env::field_value(self.pod, &field.field_path, self.world),
                (None, Some(resource)) => env::resource_value(self.pod, None, resource, self.world),
                (None, None) => Ok(String::new()),
            };
            let value = value.map_err(|e| e.to_string())?;
            files.insert(
                item.path.clone(),
                self.file(value.into_bytes(), item.mode.unwrap_or(mode)),
            );
        }
        Ok(())
    }

    async fn add_token(
        &self,
        source: &ServiceAccountTokenProjection,
        mode: i32,
        files: &mut Payload,
    ) -> Result<tokio::time::Instant, String> {
        let account = self
            .pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.as_deref())
            .unwrap_or("default");
        let name = self.pod.metadata.name.as_deref().unwrap_or_default();
        let request = super::tokens::Request {
            namespace: self.namespace().to_owned(),
            account: account.to_owned(),
            pod: name.to_owned(),
            uid: self.uid.to_owned(),
            audience: source.audience.clone().unwrap_or_default(),
            seconds: source.expiration_seconds.unwrap_or(3600),
        };
        let token = self
            .tokens
            .get(&request)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let mut file = self.file(token.text.into_bytes(), mode);
        // A token is for whoever runs as the one user that all containers share, or for the pod's group, else for all.
        let user = self.common_user();
        if user.is_some() || self.group.is_some() {
            file.mode = if self.group.is_some() { 0o640 } else { 0o600 };
            file.owner = user;
        }
        files.insert(source.path.clone(), file);
        Ok(token.refresh)
    }

    fn common_user(&self) -> Option<u32> {
        let spec = self.pod.spec.as_ref()?;
        let pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
        let mut users = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod));
        let first = users.next()??;
        users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok())?
    }

    fn file(&self, data: Vec<u8>, mode: i32) -> File {
        let mode = u32::try_from(mode).unwrap_or(0o644) & 0o7777;
        // Upstream gives the pod's group what it needs to read.
        let mode = if self.group.is_some() { mode | 0o440 } else { mode };
        File {
            data,
            mode,
            owner: None,
            group: self.group,
        }
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }
}
