//! What holds of any image that may be shown to a guest.

use super::image::{check, wanted};
use crate::model::ImageFormat;

/// Any bytes as an image: the first says of which format. What was let through has none of the marks of another file, looked
/// for without walking the header.
pub(crate) fn image(bytes: &[u8]) {
    let Some((kind, image)) = bytes.split_first() else {
        return;
    };
    let formats = [
        ImageFormat::Raw,
        ImageFormat::Qcow2,
        ImageFormat::Vpc,
        ImageFormat::Vmdk,
    ];
    let format = formats[usize::from(kind % 4)];
    let (head, tail) = wanted(format);
    let head = &image[..head.min(image.len())];
    let tail = &image[image.len() - tail.min(image.len())..];
    if check(format, head, tail).is_err() {
        assert!(format != ImageFormat::Raw);
        return;
    }
    match format {
        ImageFormat::Raw => {}
        ImageFormat::Qcow2 => {
            assert_eq!(head[..4], *b"QFI\xfb");
            assert!(head[8..16] == [0; 8], "a backing file");
            assert!(head[32..36] == [0; 4], "encryption");
            assert!(head[7] == 2 || head[79] & 4 == 0, "an external data file");
        }
        ImageFormat::Vpc => {
            assert!(tail.starts_with(b"conectix") || head.starts_with(b"conectix"));
            assert_ne!(tail.get(63), Some(&4), "a differencing disk");
        }
        ImageFormat::Vmdk => {
            assert!(head.starts_with(b"KDMV"));
            // Where the header says that the descriptor is, in sectors.
            let place = head
                .get(28..44)
                .and_then(|place| <[u8; 16]>::try_from(place).ok());
            let place = place.map_or(0, u128::from_le_bytes);
            let (at, length) = (place as u64 as usize, (place >> 64) as u64 as usize);
            let descriptor = head.get(512 * at..512 * (at + length)).unwrap_or_default();
            let hint = b"\nparentFileNameHint=";
            assert!(!descriptor.windows(hint.len()).any(|window| window == hint));
        }
    }
}
