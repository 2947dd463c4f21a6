//! The default pod network: a bridge with addresses from the node's own range, when nobody else has configured one.

use std::{fs, io, path::Path};

use serde_json::json;

/// Sorts after what other networks bring, which then win.
pub const FILE: &str = "99-coracle.conflist";

/// Writes the configuration unless another one is there. True when ours is the one in force.
pub fn write(dir: &Path, ranges: &[&str]) -> io::Result<bool> {
    let own = dir.join(FILE);
    let foreign = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name != FILE
                && [".conflist", ".conf", ".json"]
                    .iter()
                    .any(|suffix| name.ends_with(suffix))
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if foreign {
        // Both would be valid; the runtime takes the first by name, and ours would only confuse.
        return match fs::remove_file(&own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(false),
        };
    }
    let text = config(ranges);
    if fs::read_to_string(&own).is_ok_and(|have| have == text) {
        return Ok(true);
    }
    fs::create_dir_all(dir)?;
    // The runtime watches the directory: it must never see half a file.
    let next = dir.join(".coracle.tmp");
    fs::write(&next, text)?;
    fs::rename(next, own)?;
    Ok(true)
}

fn config(ranges: &[&str]) -> String {
    let subnets: Vec<_> = ranges.iter().map(|range| json!([{"subnet": range}])).collect();
    let routes: Vec<_> = ranges
        .iter()
        .map(|r| json!({"dst": if r.contains(':') { "::/0" } else { "0.0.0.0/0" }}))
        .collect();
    let list = json!({
        "cniVersion": "0.4.0",
        "name": "coracle",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": subnets, "routes": routes}
            }
        ]
    });
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_network_steps_aside_for_another() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &["10.244.3.0/24"]).unwrap());
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.244.3.0/24");
        fs::write(dir.path().join("10-other.conflist"), "{}").unwrap();
        assert!(!write(dir.path(), &["10.244.3.0/24"]).unwrap());
        assert!(!dir.path().join(FILE).exists());
    }
}
