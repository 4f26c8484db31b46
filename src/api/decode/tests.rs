use super::*;
use crate::connection::Protocol;
use crate::model::{
    AccessSource, Bus, Cache, DetectZeroes, Discard, DiskAddress, ErrorPolicy, IoMode,
    ReadErrorPolicy,
};

fn local() -> Option<v1::ConnectionInfo> {
    Some(v1::ConnectionInfo {
        form: Some(v1::connection_info::Form::Local(v1::LocalVolume {
            device_path: "/volumes/v1".into(),
            ..Default::default()
        })),
    })
}

fn request() -> v1::AttachVolumeRequest {
    v1::AttachVolumeRequest {
        attachment_id: "a-1".into(),
        volume_id: "v-1".into(),
        domain: "web".into(),
        connection_info: local(),
        ..Default::default()
    }
}

fn refused(change: impl FnOnce(&mut v1::AttachVolumeRequest)) -> (Reason, String) {
    let mut request = request();
    change(&mut request);
    let error = attach(request).unwrap_err();
    (error.reason(), crate::model::chain(&error))
}

fn with_disk(disk: v1::DiskOptions) -> (Reason, String) {
    refused(|request| request.disk = Some(disk))
}

#[test]
fn the_least_request_leaves_the_rest_to_the_defaults() {
    let decoded = attach(request()).unwrap();
    assert_eq!(decoded.id.as_str(), "a-1");
    assert_eq!(decoded.domain, DomainRef::Name("web".into()));
    assert_eq!(decoded.access, None);
    assert_eq!(decoded.disk, DiskOptions::default());
}

#[test]
fn every_disk_option_arrives() {
    let mut request = request();
    request.access = v1::Access::ReadOnly.into();
    request.disk = Some(v1::DiskOptions {
        bus: "scsi".into(),
        target: "sdb".into(),
        cache: "directsync".into(),
        io: "native".into(),
        discard: "unmap".into(),
        detect_zeroes: "on".into(),
        serial: "s".into(),
        shareable: true,
        iotune: Some(v1::IoTune {
            read_iops_sec: 7,
            ..Default::default()
        }),
        logical_block_size: 512,
        physical_block_size: 4096,
        address: "drive:0:0:0:5".into(),
        boot_order: 2,
        scope: v1::Scope::LiveAndConfig.into(),
        error_policy: "enospace".into(),
        rerror_policy: "stop".into(),
    });
    let decoded = attach(request).unwrap();
    assert_eq!(decoded.access, Some(Access::ReadOnly));
    assert_eq!(
        decoded.disk,
        DiskOptions {
            bus: Some(Bus::Scsi),
            target: Some("sdb".into()),
            cache: Some(Cache::Directsync),
            io: Some(IoMode::Native),
            discard: Some(Discard::Unmap),
            detect_zeroes: Some(DetectZeroes::On),
            serial: Some("s".into()),
            shareable: true,
            iotune: Some(IoTune {
                read_iops_sec: Some(7),
                ..IoTune::default()
            }),
            logical_block_size: Some(512),
            physical_block_size: Some(4096),
            address: Some(DiskAddress::Drive {
                controller: 0,
                bus: 0,
                target: 0,
                unit: 5
            }),
            boot_order: Some(2),
            scope: Scope::LiveAndConfig,
            error_policy: Some(ErrorPolicy::Enospace),
            rerror_policy: Some(ReadErrorPolicy::Stop),
        }
    );
}

#[test]
fn each_limit_arrives_under_its_own_name() {
    let limits = v1::IoTune {
        total_bytes_sec: 1,
        read_bytes_sec: 2,
        write_bytes_sec: 3,
        total_iops_sec: 4,
        read_iops_sec: 5,
        write_iops_sec: 6,
        total_bytes_sec_max: 7,
        read_bytes_sec_max: 8,
        write_bytes_sec_max: 9,
        total_iops_sec_max: 10,
        read_iops_sec_max: 11,
        write_iops_sec_max: 12,
        size_iops_sec: 13,
        total_bytes_sec_max_length: 14,
        read_bytes_sec_max_length: 15,
        write_bytes_sec_max_length: 16,
        total_iops_sec_max_length: 17,
        read_iops_sec_max_length: 18,
        write_iops_sec_max_length: 19,
        group_name: "g".into(),
    };
    let decoded = iotune(Some(limits)).unwrap().unwrap();
    assert_eq!(decoded.group_name.as_deref(), Some("g"));
    let decoded: Vec<_> = decoded.limits().collect();
    let expected: Vec<_> = IoTune::KEYS.iter().copied().zip(1..).collect();
    assert_eq!(decoded, expected);
    assert_eq!(iotune(Some(v1::IoTune::default())).unwrap(), None);
}

#[test]
fn what_is_missing_or_malformed_is_named() {
    let named = [
        (refused(|r| r.attachment_id.clear()), "attachment_id"),
        (refused(|r| r.attachment_id = "a b".into()), "attachment_id"),
        (refused(|r| r.volume_id.clear()), "volume_id"),
        (refused(|r| r.volume_id = "../x".into()), "volume_id"),
        (refused(|r| r.domain.clear()), "domain"),
        (refused(|r| r.domain = "a/b".into()), "domain"),
        (refused(|r| r.connection_info = None), "connection_info"),
        (
            refused(|r| r.connection_info = Some(v1::ConnectionInfo { form: None })),
            "connection_info",
        ),
        (refused(|r| r.access = 9), "access"),
    ];
    for ((reason, message), field) in named {
        assert_eq!(reason, Reason::InvalidRequest, "{message}");
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn a_wrong_disk_option_is_named() {
    let text = |field: fn(&mut v1::DiskOptions) -> &mut String, value: &str| {
        let mut disk = v1::DiskOptions::default();
        value.clone_into(field(&mut disk));
        with_disk(disk)
    };
    let long = "x".repeat(65);
    let named = [
        (text(|d| &mut d.bus, "ide"), "bus"),
        (text(|d| &mut d.target, &long), "target"),
        (text(|d| &mut d.cache, "fast"), "cache"),
        (text(|d| &mut d.io, "x"), "io"),
        (text(|d| &mut d.discard, "x"), "discard"),
        (text(|d| &mut d.detect_zeroes, "x"), "detect_zeroes"),
        (text(|d| &mut d.serial, &long), "serial"),
        (text(|d| &mut d.address, "usb:1"), "address"),
        (
            with_disk(v1::DiskOptions {
                scope: 9,
                ..Default::default()
            }),
            "scope",
        ),
    ];
    for ((reason, message), option) in named {
        assert_eq!(reason, Reason::DiskOptionInvalid, "{message}");
        assert!(message.contains(option), "{message}");
    }
    assert_eq!(
        text(|d| &mut d.bus, "ide").1,
        "the disk option bus cannot be used: bus \"ide\" is not known: use one of virtio, scsi, xen"
    );
}

#[test]
fn connection_info_keeps_its_own_reason() {
    let (reason, message) = refused(|request| {
        request.connection_info = Some(v1::ConnectionInfo {
            form: Some(v1::connection_info::Form::CinderJson(
                r#"{"driver_volume_type":"rbd","data":{}}"#.into(),
            )),
        });
    });
    assert_eq!(reason, Reason::ProtocolUnsupported, "{message}");
}

#[test]
fn the_typed_forms_mean_what_cinders_do() {
    let cinder = r#"{"driver_volume_type":"smbfs","data":{"export":"//files/vols","name":"v1","format":"qcow2",
        "options":"-o username=bob,password=p,domain=D,seal","access_mode":"ro","discard":true,
        "qos_specs":{"read_iops_sec":"7"},"logical_block_size":"512","physical_block_size":"4096"}}"#;
    let typed = v1::SmbVolume {
        export: "//files/vols".into(),
        name: "v1".into(),
        format: "qcow2".into(),
        options: "seal".into(),
        credentials: Some(v1::SmbCredentials {
            username: "bob".into(),
            password: "p".into(),
            domain: "D".into(),
        }),
        properties: Some(v1::VolumeProperties {
            access: v1::Access::ReadOnly.into(),
            iotune: Some(v1::IoTune {
                read_iops_sec: 7,
                ..Default::default()
            }),
            discard: true,
            logical_block_size: 512,
            physical_block_size: 4096,
        }),
    };
    let decode = |form| connection::info(Some(v1::ConnectionInfo { form: Some(form) })).unwrap();
    let typed = decode(v1::connection_info::Form::Smb(typed));
    let cinder = decode(v1::connection_info::Form::CinderJson(cinder.into()));
    assert_eq!(typed, cinder);
    assert_eq!(typed.common.read_only_by, [AccessSource::AccessMode]);

    let local = connection::info(local()).unwrap();
    assert!(matches!(local.protocol, Protocol::Local(_)));
}

#[test]
fn a_typed_namespace_is_the_same_as_cinders() {
    let nvme = v1::NvmeVolume {
        nqn: "nqn.x".into(),
        portals: vec![v1::NvmePortal {
            address: "1.1.1.1".into(),
            port: 4420,
        }],
        uuid: "7c9e6679-7425-40de-944b-e07fc1f90ae7".into(),
        nsid: 10,
        ..Default::default()
    };
    let cinder = r#"{"driver_volume_type":"nvmeof","target_nqn":"nqn.x","ns_id":"10",
        "vol_uuid":"7c9e6679-7425-40de-944b-e07fc1f90ae7","portals":[["1.1.1.1","4420","tcp"]]}"#;
    let decode = |form| connection::info(Some(v1::ConnectionInfo { form: Some(form) })).unwrap();
    let typed = decode(v1::connection_info::Form::Nvme(nvme));
    let cinder = decode(v1::connection_info::Form::CinderJson(cinder.into()));
    assert_eq!(typed, cinder);
}

#[test]
fn lists_and_watches_are_checked_too() {
    let list_with = |page_token: &str, filter: v1::AttachmentFilter| {
        list(v1::ListAttachmentsRequest {
            filter: Some(filter),
            page_size: 0,
            page_token: page_token.into(),
        })
    };
    let none = v1::AttachmentFilter::default();
    let all = list_with("", none.clone()).unwrap();
    assert_eq!(
        (all.filter.clone(), all.after.clone(), all.limit),
        (Filter::default(), None, 101)
    );

    let filter = |change: fn(&mut v1::AttachmentFilter)| {
        let mut filter = v1::AttachmentFilter::default();
        change(&mut filter);
        filter
    };
    for (error, field) in [
        (list_with("x", none), "page_token"),
        (
            list_with("", filter(|f| f.domain = "a/b".into())),
            "filter.domain",
        ),
        (
            list_with("", filter(|f| f.volume_id = "a b".into())),
            "filter.volume_id",
        ),
        (list_with("", filter(|f| f.state = 99)), "filter.state"),
        (
            watch(v1::WatchAttachmentsRequest {
                resume_after: "x".into(),
                ..Default::default()
            })
            .map(|_| all.clone()),
            "resume_after",
        ),
    ] {
        let error = error.unwrap_err();
        assert_eq!(error.reason(), Reason::InvalidRequest);
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn each_state_is_known_by_its_number() {
    for number in 1..=8 {
        let state = state(number).unwrap().unwrap();
        let name = v1::State::try_from(number).unwrap().as_str_name();
        assert_eq!(name, format!("STATE_{}", state.as_str().to_uppercase()));
    }
}
