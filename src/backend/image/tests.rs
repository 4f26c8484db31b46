use std::process::Command;

use proptest::prelude::*;

use super::*;

const FORMATS: [ImageFormat; 4] = [
    ImageFormat::Raw,
    ImageFormat::Qcow2,
    ImageFormat::Vpc,
    ImageFormat::Vmdk,
];

/// Checks a file as a backend does, read whole.
fn check_file(path: &std::path::Path, format: ImageFormat) -> Result<(), Fault> {
    let all = std::fs::read(path).unwrap();
    let (head, tail) = wanted(format);
    check(
        format,
        &all[..head.min(all.len())],
        &all[all.len() - tail.min(all.len())..],
    )
}

/// Makes an image with qemu-img, the program that the guest's side uses.
struct Maker(tempfile::TempDir);

impl Maker {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// `qemu-img create` with these arguments, the size and names relative to the directory.
    fn create(&self, arguments: &[&str]) -> std::path::PathBuf {
        let run = || {
            Command::new("qemu-img")
                .arg("create")
                .args(arguments)
                .current_dir(&self.0)
                .output()
                .expect(
                    "this test makes real images: install qemu-img (Debian: apt install qemu-utils)",
                )
        };
        // For LUKS, qemu-img measures how fast the processor is, and gives up where that takes less than a tick of the
        // kernel's accounting (qcrypto_pbkdf2_count_iters).
        let too_fast = |output: &std::process::Output| {
            String::from_utf8_lossy(&output.stderr).contains("Unable to get accurate CPU usage")
        };
        let mut output = run();
        for _ in 0..100 {
            if too_fast(&output) {
                output = run();
            }
        }
        assert!(output.status.success(), "{output:?}");
        let name = arguments.iter().rfind(|a| a.starts_with("image")).unwrap();
        self.0.path().join(name)
    }
}

#[test]
fn real_images_in_one_file_are_accepted() {
    let maker = Maker::new();
    let cases: &[(&[&str], ImageFormat)] = &[
        (&["-fqcow2", "image1", "64M"], ImageFormat::Qcow2),
        (
            &["-fqcow2", "-ocompat=0.10", "image2", "64M"],
            ImageFormat::Qcow2,
        ),
        (
            &["-fqcow2", "-ocluster_size=512", "image3", "1M"],
            ImageFormat::Qcow2,
        ),
        (
            &["-fqcow2", "-ocluster_size=2M", "image4", "64M"],
            ImageFormat::Qcow2,
        ),
        (
            &[
                "-fqcow2",
                "-ocompression_type=zstd,extended_l2=on",
                "image5",
                "64M",
            ],
            ImageFormat::Qcow2,
        ),
        (&["-fvpc", "image6", "64M"], ImageFormat::Vpc),
        (
            &["-fvpc", "-osubformat=fixed", "image7", "1M"],
            ImageFormat::Vpc,
        ),
        (&["-fvmdk", "image8", "64M"], ImageFormat::Vmdk),
        (
            &["-fvmdk", "-osubformat=streamOptimized", "image9", "64M"],
            ImageFormat::Vmdk,
        ),
    ];
    for (arguments, format) in cases {
        let image = maker.create(arguments);
        assert_eq!(check_file(&image, *format), Ok(()), "{arguments:?}");
        for other in FORMATS {
            let expected = other == *format || other == ImageFormat::Raw;
            assert_eq!(
                check_file(&image, other).is_ok(),
                expected,
                "{arguments:?} as {other}"
            );
        }
    }
}

#[test]
fn real_images_that_name_other_files_are_refused() {
    let maker = Maker::new();
    maker.create(&["-fqcow2", "image-base", "1M"]);
    maker.create(&["-fvmdk", "image-vmdk-base", "1M"]);
    let cases: &[(&[&str], ImageFormat)] = &[
        (
            &["-fqcow2", "-bimage-base", "-Fqcow2", "image1"],
            ImageFormat::Qcow2,
        ),
        (
            &["-fqcow2", "-u", "-b/etc/shadow", "-Fraw", "image2", "1M"],
            ImageFormat::Qcow2,
        ),
        (
            &[
                "-fqcow2",
                "-odata_file=data,data_file_raw=on",
                "image3",
                "1M",
            ],
            ImageFormat::Qcow2,
        ),
        (
            &["-fvmdk", "-bimage-vmdk-base", "-Fvmdk", "image4"],
            ImageFormat::Vmdk,
        ),
        (
            &["-fvmdk", "-osubformat=monolithicFlat", "image5.vmdk", "1M"],
            ImageFormat::Vmdk,
        ),
        (
            &[
                "-fvmdk",
                "-osubformat=twoGbMaxExtentSparse",
                "image6.vmdk",
                "1M",
            ],
            ImageFormat::Vmdk,
        ),
    ];
    for (arguments, format) in cases {
        let result = check_file(&maker.create(arguments), *format);
        assert!(
            matches!(result, Err(Fault::References(_))),
            "{arguments:?}: {result:?}"
        );
    }
}

#[test]
fn a_real_encrypted_image_is_refused() {
    let maker = Maker::new();
    let image = maker.create(&[
        "--object=secret,id=s,data=x",
        "-fqcow2",
        "-oencrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        "image1",
        "1M",
    ]);
    assert_eq!(
        check_file(&image, ImageFormat::Qcow2),
        Err(Fault::Encrypted("LUKS".into()))
    );
}

/// A version 3 header without extensions.
fn qcow2() -> Vec<u8> {
    let mut head = vec![0; 1024];
    head[..4].copy_from_slice(b"QFI\xfb");
    head[7] = 3;
    head[23] = 9;
    head[103] = 104;
    head
}

#[test]
fn qcow2_headers_are_walked_to_their_end() {
    assert_eq!(check(ImageFormat::Qcow2, &qcow2(), &[]), Ok(()));
    let with = |offset: usize, bytes: &[u8]| {
        let mut head = qcow2();
        head[offset..offset + bytes.len()].copy_from_slice(bytes);
        check(ImageFormat::Qcow2, &head, &[])
    };
    let references = |result| matches!(result, Err(Fault::References(_)));
    let malformed = |result| matches!(result, Err(Fault::Malformed(_)));
    assert!(references(with(8, &1u64.to_be_bytes())));
    assert!(references(with(72, &4u64.to_be_bytes())));
    assert!(references(with(104, b"DATA\0\0\0\x01x")));
    // Another extension before it.
    assert!(references(with(
        104,
        b"abcd\0\0\0\x01x\0\0\0\0\0\0\0DATA\0\0\0\x01x"
    )));
    assert!(malformed(with(104, b"abcd\xff\xff\xff\xff")));
    assert!(malformed(with(4, &4u32.to_be_bytes())));
    assert!(malformed(with(100, &8u32.to_be_bytes())));
    assert!(malformed(with(100, &u32::MAX.to_be_bytes())));
    assert!(malformed(with(20, &30u32.to_be_bytes())));
    assert!(malformed(check(ImageFormat::Qcow2, &qcow2()[..90], &[])));
}

/// A footer, and the dynamic disk header that a dynamic one's copy is followed by.
fn vhd(kind: u8) -> Vec<u8> {
    let mut head = vec![0; 1536];
    head[..8].copy_from_slice(b"conectix");
    head[16..24].copy_from_slice(&512u64.to_be_bytes());
    head[63] = kind;
    head[512..520].copy_from_slice(b"cxsparse");
    head
}

#[test]
fn vhds_with_parents_are_refused() {
    let footer = |kind| vhd(kind)[..512].to_vec();
    let check = |head: &[u8], tail: &[u8]| check(ImageFormat::Vpc, head, tail);
    assert_eq!(check(&vhd(3), &footer(3)), Ok(()));
    assert_eq!(check(&[0; 4096], &footer(2)), Ok(()));
    let references = |result| matches!(result, Err(Fault::References(_)));
    assert!(references(check(&vhd(4), &footer(4))));
    assert!(references(check(&[0; 4096], &footer(4))));
    assert!(references(check(&vhd(4), &footer(3))));
    let mut parent = vhd(3);
    parent[512 + 40] = 1;
    assert!(references(check(&parent, &footer(3))));
    let mut elsewhere = vhd(3);
    elsewhere[16..24].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(matches!(
        check(&elsewhere, &footer(3)),
        Err(Fault::Malformed(_))
    ));
    assert!(matches!(
        check(&[0; 4096], &footer(3)),
        Err(Fault::Malformed(_))
    ));
    assert!(matches!(check(&[], &[]), Err(Fault::Malformed(_))));
}

/// A sparse header with this descriptor in its place.
fn vmdk(descriptor: &str) -> Vec<u8> {
    let mut head = vec![0; 64 * 1024];
    head[..4].copy_from_slice(b"KDMV");
    head[12] = 1;
    head[28] = 1;
    head[36] = 20;
    head[512..512 + descriptor.len()].copy_from_slice(descriptor.as_bytes());
    head
}

#[test]
fn vmdk_descriptors_may_name_no_other_file() {
    let good = "# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\
                RW 2048 SPARSE \"old name.vmdk\"\n";
    assert_eq!(check(ImageFormat::Vmdk, &vmdk(good), &[]), Ok(()));
    for bad in [
        "parentCID=12345678\n",
        "createType=\"monolithicFlat\"\n",
        "parentFileNameHint=\"/etc/shadow\"\n",
        "\0parentFileNameHint=\"/etc/shadow\"\n",
        "RW 2048 FLAT \"/etc/shadow\" 0\n",
        "RW 1 SPARSE \"a\"\nRW 1 SPARSE \"b\"\n",
    ] {
        let result = check(ImageFormat::Vmdk, &vmdk(bad), &[]);
        assert!(
            matches!(result, Err(Fault::References(_))),
            "{bad}: {result:?}"
        );
    }
    let mut without_capacity = vmdk(good);
    without_capacity[12] = 0;
    assert!(matches!(
        check(ImageFormat::Vmdk, &without_capacity, &[]),
        Err(Fault::References(_))
    ));
    let mut descriptor_elsewhere = vmdk(good);
    descriptor_elsewhere[30] = 1;
    assert!(matches!(
        check(ImageFormat::Vmdk, &descriptor_elsewhere, &[]),
        Err(Fault::Malformed(_))
    ));
}

/// Bytes that often get past the first checks.
fn headers() -> impl Strategy<Value = Vec<u8>> {
    let base = prop_oneof![
        Just(qcow2()),
        Just(vhd(3)),
        Just(vmdk("parentCID=ffffffff\n")),
        proptest::collection::vec(any::<u8>(), 0..2048),
    ];
    let edits = proptest::collection::vec((0usize..1600, any::<[u8; 4]>()), 0..8);
    (base, edits, 0usize..2048).prop_map(|(mut bytes, edits, cut)| {
        for (at, edit) in edits {
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&edit);
            }
        }
        bytes.truncate(cut);
        bytes
    })
}

proptest! {
    #[test]
    fn no_bytes_make_a_check_panic(head in headers(), tail in headers()) {
        for format in FORMATS {
            let _ = check(format, &head, &tail);
        }
    }

    #[test]
    fn nothing_is_looked_for_in_a_raw_volume(head in headers()) {
        prop_assert_eq!(check(ImageFormat::Raw, &head, &[]), Ok(()));
    }
}
