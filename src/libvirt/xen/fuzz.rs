//! What holds of any answer of xenstored.

use std::path::Path;

use tokio::io::AsyncWriteExt;

use super::store::Store;
use super::vbd::{XenbusState, source};

/// Any bytes as xenstored's answer to a read and to a list: names that can be asked for again, or an error.
pub(crate) fn xenstore(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        return;
    };
    for list in [false, true] {
        let (stream, mut answers) = tokio::io::duplex(64 * 1024);
        runtime.block_on(async {
            if answers
                .write_all(&bytes[..bytes.len().min(32 * 1024)])
                .await
                .is_err()
            {
                return;
            }
            // What comes after it is the end.
            let _ = answers.shutdown().await;
            let mut store = Store { stream };
            if list {
                let names = store.list("/p").await.unwrap_or_default();
                assert!(
                    names
                        .iter()
                        .all(|name| !name.is_empty() && !name.contains('\0'))
                );
            } else if let Ok(Some(value)) = store.read("/p").await {
                let path = source(&value);
                assert!(
                    Path::new(&value).ends_with(&path) || value.ends_with(&*path.to_string_lossy())
                );
                let state = XenbusState::parse(Some(&value));
                assert_eq!(XenbusState::parse(Some(&state.number())), state);
            }
        });
    }
}
