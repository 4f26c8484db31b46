use super::*;
use crate::config::Settings;
use crate::connection::ConnectionInfo;
use crate::model::Reason;

const UUID: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

fn backend() -> NvmeBackend {
    let workers = Workers::from_executable(PathBuf::new());
    NvmeBackend::new(Settings::built_in().nvmeof, Arc::new(Host::this()), workers)
}

fn info(identity: &str) -> Protocol {
    let json = format!(
        r#"{{"driver_volume_type":"nvmeof","target_nqn":"nqn.x",{identity},
            "portals":[["10.0.0.1","4420","tcp"],["fd00::2",4421,"tcp"]]}}"#
    );
    ConnectionInfo::from_cinder_json(&json).unwrap().protocol
}

#[test]
fn volumes_of_a_subsystem_share_its_controllers() {
    let backend = backend();
    let by_uuid = info(&format!(r#""vol_uuid":"{UUID}""#));
    let plan = backend.plan(&by_uuid, Access::ReadOnly).unwrap();
    assert_eq!(plan.shared.as_deref(), Some("nvmeof:nqn.x"));
    assert_eq!(
        plan.path,
        PathBuf::from(format!("/dev/disk/by-id/nvme-uuid.{UUID}"))
    );
    assert_eq!(
        (plan.kind, plan.access),
        (SourceKind::Block, Access::ReadOnly)
    );
    let target = plan.target.unwrap();
    assert_eq!(target.expected, Some(format!("uuid.{UUID}")));
    let portals: Vec<&str> = target
        .paths
        .iter()
        .map(|path| path.portal.as_str())
        .collect();
    assert_eq!(portals, ["10.0.0.1:4420", "[fd00::2]:4421"]);
    let by_number = backend
        .plan(&info(r#""ns_id":7"#), Access::ReadWrite)
        .unwrap();
    assert_eq!(by_number.shared, plan.shared);
    assert_eq!(by_number.target.unwrap().paths[0].lun, Some(7));
}

#[test]
fn the_kernel_is_given_every_time_out() {
    let own = NvmeHost {
        nqn: "nqn.me".into(),
        id: uuid::Uuid::try_parse(UUID).unwrap(),
    };
    let portal = "[fd00::2]:4421".parse().unwrap();
    let options = path::options(&Settings::built_in().nvmeof, "nqn.x", portal, &own);
    insta::assert_snapshot!(options, @"transport=tcp,traddr=fd00::2,trsvcid=4421,nqn=nqn.x,hostnqn=nqn.me,hostid=7c9e6679-7425-40de-944b-e07fc1f90ae7,keep_alive_tmo=5,reconnect_delay=2,fast_io_fail_tmo=15,ctrl_loss_tmo=600");
}

#[test]
fn a_plan_is_told_in_words() {
    let backend = backend();
    let info = info(r#""ns_id":7"#);
    let plan = backend.plan(&info, Access::ReadOnly).unwrap();
    let words = backend.describe(&info, &plan);
    insta::assert_snapshot!(words.connect, @"connect by NVMe/TCP to 10.0.0.1:4420, [fd00::2]:4421; the namespace 7 of nqn.x must tell its identity, the same on every path; make its device read-only");
    assert_eq!(words.settings.len(), 7);
}

#[test]
fn another_protocols_volume_is_no_business_of_this_one() {
    let local = r#"{"driver_volume_type":"local","device_path":"/dev/x"}"#;
    let local = ConnectionInfo::from_cinder_json(local).unwrap().protocol;
    let error = backend().plan(&local, Access::ReadOnly).unwrap_err();
    assert_eq!(error.reason(), Reason::Internal);
}
