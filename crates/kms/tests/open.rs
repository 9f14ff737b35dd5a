//! From a URI to a root key, in whatever features are on.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use keystrata_hierarchy::{RootKey, test_util::conformance};
use keystrata_kms::{LocalKeyRing, LocalRootKey, OpenRootError, check_uri, open, verify_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_a_folder_of_files_open_and_conform() {
    let folder = tempfile::tempdir().unwrap();
    let (file, ring) = (folder.path().join("root.key"), folder.path().join("keys"));
    let created = LocalRootKey::create(&file).unwrap();
    LocalKeyRing::create(&ring).unwrap();
    let uri = |path: &std::path::Path| format!("local:{}", path.display());
    assert_eq!(open(&uri(&file)).await.unwrap().id(), created.id());
    for uri in [uri(&file), uri(&ring)] {
        check_uri(&uri).unwrap();
        verify_root(&open(&uri).await.unwrap()).await.unwrap();
        conformance::root_key(async || open(&uri).await.unwrap()).await;
    }
    let missing = open(&uri(&folder.path().join("missing"))).await;
    assert!(matches!(missing, Err(OpenRootError::Local(_))), "{missing:?}");
}

#[tokio::test]
async fn a_service_that_is_not_compiled_names_its_feature() {
    let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
    for (uri, feature, is_on) in [
        ("aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1234".to_owned(), "`aws`", cfg!(feature = "aws")),
        (format!("gcp-kms:{key}?endpoint=http://127.0.0.1:1&auth=none"), "`gcp`", cfg!(feature = "gcp")),
        (
            "vault-transit:http://127.0.0.1:1/transit/keys/k?token_file=/nowhere".into(),
            "`vault`",
            cfg!(feature = "vault"),
        ),
    ] {
        // Settings may be written on a machine whose command has fewer features.
        check_uri(&uri).unwrap();
        match open(&uri).await {
            Ok(root) => assert!(is_on && root.id().as_str().starts_with(uri.split(':').next().unwrap())),
            Err(error) => {
                assert!(!is_on && matches!(error, OpenRootError::FeatureOff { .. }), "{error}");
                assert!(error.to_string().contains(feature), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn what_names_no_root_key_is_told_how_to_be_written() {
    for uri in ["", "root.key", "local:", "azure:x", "gcp-kms:", "aws-kms:?region=x", "vault-transit:"] {
        let error = open(uri).await.unwrap_err();
        let is_told = matches!(error, OpenRootError::FeatureOff { .. }) || error.to_string().contains("as in");
        assert!(is_told && !error.to_string().contains('\n'), "{uri}: {error}");
    }
}
