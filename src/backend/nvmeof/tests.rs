use super::fabric::State;
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
    let controller = |portal: &str| Claim::Controller {
        subsystem: "nqn.x".into(),
        portal: portal.into(),
    };
    assert_eq!(
        plan.claims,
        [
            Claim::Subsystem("nqn.x".into()),
            controller("10.0.0.1:4420"),
            controller("[fd00::2]:4421"),
        ]
    );
    assert_eq!(
        plan.path,
        PathBuf::from(format!("/dev/disk/by-id/nvme-uuid.{UUID}"))
    );
    assert_eq!(
        (plan.kind, plan.access),
        (SourceKind::Block, Access::ReadOnly)
    );
    let target = target(&plan).unwrap();
    let uuid = uuid::Uuid::try_parse(UUID).ok();
    assert_eq!(target.expected, Wwid::nvme(uuid, None, None));
    let portals: Vec<&str> = target
        .paths
        .iter()
        .map(|path| path.portal.as_str())
        .collect();
    assert_eq!(portals, ["10.0.0.1:4420", "[fd00::2]:4421"]);
    let by_number = backend
        .plan(&info(r#""ns_id":7"#), Access::ReadWrite)
        .unwrap();
    assert_eq!(by_number.claims, plan.claims);
    assert_eq!(self::target(&by_number).unwrap().paths[0].lun, Some(7));
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

/// Who made a controller is known by what was found before, also by the next daemon; of what an earlier build made, by its time-out.
#[test]
fn only_controllers_that_volattach_made_are_ended() {
    let backend = backend();
    let info = info(r#""ns_id":7"#);
    let plan = backend.plan(&info, Access::ReadWrite).unwrap();
    let mut volume = HostVolume::from(plan);
    let [first, second] = ["10.0.0.1:4420", "[fd00::2]:4421"];
    let ours = |volume: &HostVolume, at: &str, as_ours| {
        let controller = Controller {
            as_ours,
            ..controller(at, "")
        };
        let paths = &target(&volume.plan).unwrap().paths;
        path::is_ours(paths, volume.found.others.as_deref(), &controller)
    };
    assert!(ours(&volume, first, true) && !ours(&volume, first, false));
    volume.found.others = Some(vec![second.to_owned()]);
    for as_ours in [true, false] {
        assert!(ours(&volume, first, as_ours));
        assert!(!ours(&volume, second, as_ours));
        let other = "10.0.0.9:4420";
        assert!(!ours(&volume, other, as_ours), "of another volume");
    }
    backend.recall(&volume);
    let made = |at: &str| backend.made.has("nqn.x", at.parse().unwrap());
    assert!(made(first) && !made(second));
}

fn controller(portal: &str, host: &str) -> Controller {
    Controller {
        name: "nvme0".into(),
        portal: portal.parse().ok(),
        state: State::Live,
        as_ours: true,
        host: host.into(),
        nsids: vec![],
    }
}

#[test]
fn controllers_by_another_name_of_this_host_are_nobodys_here() {
    let at = |host: &str| controller("10.0.0.1:4420", host);
    let all = vec![at("nqn.other"), at("nqn.own"), at("")];
    assert_eq!(look::by_name(all, "nqn.own"), [at("nqn.own"), at("")]);
}

/// What two attachments, each by a portal of its own, have of one volume where the kernel does not join its paths.
#[tokio::test]
async fn each_path_has_its_own_device_where_the_kernel_does_not_join_them() {
    let sys = tempfile::tempdir().unwrap();
    let write = |path: &str, attributes: &[(&str, &str)]| {
        let path = sys.path().join(path);
        std::fs::create_dir_all(&path).unwrap();
        for (name, value) in attributes {
            std::fs::write(path.join(name), format!("{value}\n")).unwrap();
        }
    };
    for (controller, address) in [
        ("nvme0", "traddr=10.0.0.1,trsvcid=4420"),
        ("nvme1", "traddr=fd00::2,trsvcid=4421"),
    ] {
        let class = format!("class/nvme/{controller}");
        let known = [
            ("subsysnqn", "nqn.x"),
            ("transport", "tcp"),
            ("address", address),
            ("state", "live"),
        ];
        write(&class, &known);
        write(&format!("{class}/{controller}n1"), &[("nsid", "7")]);
        let block = format!("block/{controller}n1");
        write(&block, &[("nsid", "7"), ("wwid", "uuid.a"), ("size", "16")]);
        let device = sys.path().join(&block).join("device");
        std::os::unix::fs::symlink(sys.path().join(&class), device).unwrap();
    }
    let mut backend = backend();
    backend.fabric = Fabric::new(sys.path());
    let Protocol::Nvme(mut volume) = info(r#""ns_id":7"#) else {
        unreachable!()
    };
    let portals = volume.portals.clone();
    for (portal, device) in portals.into_iter().zip(["nvme0n1", "nvme1n1"]) {
        volume.portals = vec![portal];
        let plan = backend.plan(&Protocol::Nvme(volume.clone()), Access::ReadOnly);
        let plan = plan.unwrap();
        let wanted = Wanted::new(&volume);
        let appeared = backend.appear(target(&plan).unwrap(), &wanted).await;
        assert_eq!(appeared.unwrap().name, device);
    }
    // Several would be one path.
    write("module/nvme_core/parameters", &[("multipath", "N")]);
    let several = info(r#""ns_id":7"#);
    let plan = backend.plan(&several, Access::ReadOnly).unwrap();
    let refused = backend.connect(&plan.into(), &several, &Nobody).await;
    assert_eq!(refused.err().unwrap().reason(), Reason::MultipathFailed);
}

/// Has every identity for the taking.
struct Nobody;

#[async_trait]
impl Owners for Nobody {
    async fn take(&self, _identity: &Wwid, _device: String) -> Result<(), BackendError> {
        Ok(())
    }
}

/// A portal that answers with a refusal made no controller: the one that is there later is somebody else's. One that was silent may
/// have the kernel connect yet.
#[test]
fn what_a_connect_came_to_says_whose_the_controller_is_later() {
    use path::Fault;
    assert!(!Fault::Unreachable("no route".into()).may_connect_yet());
    assert!(!Fault::Refused("no such subsystem".into()).may_connect_yet());
    assert!(Fault::Silent("no answer".into()).may_connect_yet());
}
