use std::io::Write;

use super::*;

fn archive(files: &[(&str, &[u8])]) -> Archive {
    let mut tar = tar::Builder::new(tempfile::tempfile().unwrap());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    let mut file = tar.into_inner().unwrap();
    file.flush().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    Archive::read(file).unwrap()
}

fn oci(index_name: &str) -> Archive {
    let config = br#"{"architecture":"amd64","os":"linux"}"#.to_vec();
    let layer = b"layer".to_vec();
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.into(),
        config: describe_bytes(&config, OCI_CONFIG),
        layers: vec![describe_bytes(&layer, OCI_LAYER)],
    };
    let manifest_bytes = serde_json::to_vec(&manifest).unwrap();
    let descriptor = describe_bytes(&manifest_bytes, OCI_MANIFEST);
    let index = format!(
        r#"{{"manifests":[{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"annotations":{{"io.containerd.image.name":"{index_name}"}}}}]}}"#,
        descriptor.digest, descriptor.size
    );
    let path = |bytes: &[u8]| blob_path(&describe_bytes(bytes, "").digest).unwrap();
    archive(&[
        ("index.json", index.as_bytes()),
        (&path(&manifest_bytes), &manifest_bytes),
        (&path(&config), &config),
        (&path(&layer), &layer),
    ])
}

#[test]
fn an_oci_layout_names_its_images_in_full() {
    let images = oci("web:1").images().unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].names, ["docker.io/library/web:1"]);
    assert_eq!(images[0].blobs.len(), 2);
}

#[test]
fn a_saved_image_without_an_index_gets_a_manifest() {
    let manifest = br#"[{"Config":"c.json","RepoTags":["web:2"],"Layers":["l/layer.tar"]}]"#;
    let archive = archive(&[
        ("manifest.json", manifest),
        ("c.json", b"{}"),
        ("l/layer.tar", b"bytes"),
    ]);
    let images = archive.images().unwrap();
    assert_eq!(images[0].names, ["docker.io/library/web:2"]);
    let mut layer = String::new();
    archive
        .open(&images[0].blobs[1])
        .unwrap()
        .read_to_string(&mut layer)
        .unwrap();
    assert_eq!(layer, "bytes");
    assert_eq!(
        images[0].manifest.digest,
        describe_bytes(&images[0].manifest_bytes, "").digest
    );
}

#[test]
fn a_digest_that_leaves_the_folder_is_refused() {
    let index = br#"{"manifests":[{"mediaType":"","digest":"sha256:../../etc/passwd","size":1}]}"#;
    assert!(archive(&[("index.json", index)]).images().is_err());
}
