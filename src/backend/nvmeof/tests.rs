use std::fs;

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

const OWN: &str = "nqn.me";
const PORTAL: &str = "10.0.0.1:4420";

/// A host that NVMe storage calls [`OWN`], with a backend that reads its controllers.
struct Tree {
    root: tempfile::TempDir,
    backend: NvmeBackend,
}

impl Tree {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc/nvme");
        fs::create_dir_all(&etc).unwrap();
        fs::write(etc.join("hostnqn"), OWN).unwrap();
        fs::write(etc.join("hostid"), UUID).unwrap();
        let tree = Self {
            backend: NvmeBackend::new(
                Settings::built_in().nvmeof,
                Arc::new(Host::beneath(root.path())),
                Workers::from_executable(PathBuf::new()),
            ),
            root,
        };
        tree.restarted()
    }

    /// The next daemon, which remembers nothing.
    fn restarted(mut self) -> Self {
        self.backend.made = Made::default();
        self.backend.fabric = Fabric::new(self.root.path());
        self
    }

    /// A live controller of nqn.x at that portal, by that name of this host's.
    fn controller(&self, name: &str, portal: &str, host: &str) {
        let portal: std::net::SocketAddr = portal.parse().unwrap();
        let path = self.root.path().join("class/nvme").join(name);
        let address = format!("traddr={},trsvcid={}", portal.ip(), portal.port());
        write(
            &path,
            &[
                ("subsysnqn", "nqn.x"),
                ("transport", "tcp"),
                ("address", &address),
                ("state", "live"),
                ("hostnqn", host),
                ("fast_io_fail_tmo", "15"),
            ],
        );
    }

    fn set(&self, controller: &str, attribute: &str, value: &str) {
        let path = self.root.path().join("class/nvme").join(controller);
        write(&path, &[(attribute, value)]);
    }

    fn gone(&self, controller: &str) {
        fs::remove_dir_all(self.root.path().join("class/nvme").join(controller)).unwrap();
    }

    async fn others(&self, plan: &HostPlan) -> Vec<String> {
        self.backend.survey(plan).await.unwrap().others.unwrap()
    }

    async fn release(&self, volume: &HostVolume) -> Result<(), String> {
        let released = self.backend.disconnect(volume, &Release::default()).await;
        released.map_err(|error| error.to_string())
    }
}

fn write(path: &Path, attributes: &[(&str, &str)]) {
    fs::create_dir_all(path).unwrap();
    for (name, value) in attributes {
        fs::write(path.join(name), format!("{value}\n")).unwrap();
    }
}

fn plan() -> HostPlan {
    let info = info(r#""ns_id":7"#);
    backend().plan(&info, Access::ReadWrite).unwrap()
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
            name: "nvme0".into(),
            portal: Some(at.parse().unwrap()),
            state: State::Live,
            as_ours,
            host: String::new(),
            nsids: vec![],
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

/// The kernel connects this host's own name beside another one at the same portal: each goes with the program that made it.
#[tokio::test]
async fn controllers_by_another_host_name_are_nobodys_here() {
    let tree = Tree::new();
    let plan = plan();
    tree.controller("nvme0", PORTAL, "nqn.other");
    assert!(tree.others(&plan).await.is_empty());
    tree.controller("nvme1", PORTAL, OWN);
    assert_eq!(tree.others(&plan).await, [PORTAL]);
    tree.set("nvme1", "hostnqn", ""); // before Linux 5.2
    assert_eq!(tree.others(&plan).await, [PORTAL]);

    let mut volume = HostVolume::from(plan);
    volume.found.others = Some(vec![]);
    tree.backend.recall(&volume);
    let find = async || tree.backend.find(&volume).await.unwrap();
    assert_eq!(find().await, Presence::Partial);
    let ended = tree.release(&volume).await.unwrap_err();
    assert!(ended.contains("nvme1"), "{ended}");
    tree.gone("nvme1");
    assert_eq!(find().await, Presence::Absent);
    tree.release(&volume).await.unwrap();
    tree.set("nvme0", "subsysnqn", "(efault)");
    assert_eq!(find().await, Presence::Absent);
}
