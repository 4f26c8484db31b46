//! volattach: attaches volumes to running virtual machines.
//!
//! A daemon on each hypervisor. Asked over gRPC, it connects a volume to the host (SMB, NFS, iSCSI, NVMe/TCP, or of the host itself), verifies
//! the volume, plugs it into a libvirt domain, read-only or read-write, and takes it all back again. It journals each step, so that a
//! crash at any instant loses nothing and leaves nothing.
//!
//! # Binaries
//!
//! | binary | code | lives |
//! |---|---|---|
//! | `volattachd` | [`app::main`] | always: the daemon, as root, under systemd |
//! | `volattachd-worker` | [`sys::worker::work`] | for one job that may hang: a mount, a look at a volume, a flush |
//! | `volattach` | [`cli::run`] | for one command of the operator's |
//!
//! # A request
//!
//! ```text
//!             who calls      may it            plan → steps, undo                 the host
//!   socket ─▶   auth   ─▶  admission  ─▶            attach          ─┬─▶ backend ─▶ worker ─▶ mount(2)
//!    api                                              │              └─▶ libvirt ─▶ hot-plug
//!                                                     ▼
//!                                                  journal ◀── reconcile: at start, on libvirt's events, each minute
//! ```
//!
//! # Layers
//!
//! A module imports from the rows beneath its own, and not from all of them. `tests/layering.rs` has the table of who may import whom, and
//! holds the code and this drawing to it.
//!
//! ```text
//!  app  cli                                      │ put the parts together; nobody imports them
//!  api  reconcile                                │ callers' requests; the journal against reality
//!  attach                                        │ the saga: plan, steps, undo
//!  auth  admission  backend  libvirt  journal    │ who calls, may it; the host; the domain; the record
//!  config  connection  policy  host              │ settings; how to reach a volume; rules; what this host is
//!  sys                                           │ mounts, devices, workers
//!  model  figures                                │ the words that all share; counters
//! ```
//!
//! # Where to begin
//!
//! Each `mod.rs` opens with its purpose, its invariants and, where there are states, their drawing.
//!
//! | to see | read |
//! |---|---|
//! | the words and states | [`model`] |
//! | an attach from end to end | [`attach`], then its folder `steps` |
//! | one kind of storage | [`backend::Backend`], then [`backend::nfs`], the shortest over a network |
//! | what libvirt is asked and believed | [`libvirt`] |
//! | what becomes of a crash | [`journal`], [`reconcile`] |
//! | the daemon put together | [`app`] |
//!
//! Pages for users and operators are in `docs/`, by task in `docs/README.md`; reasons behind the code are in `docs/decisions/`.
//!
//! # Invariants
//!
//! | invariant | kept by |
//! |---|---|
//! | A step is journaled before it runs, its outcome after; each can find out whether it was done. | [`attach`], [`journal`] |
//! | Each step has its undo beside it; a failed undo is a state that is shown and tried again. | [`attach`] |
//! | A repeat by the same attachment id has the same answer; another request by that id is refused. | [`attach`] |
//! | Nothing that can hang runs inside the daemon; a dead server slows no other's volumes. | [`sys::worker`], [`backend`] |
//! | Uses are counted from the journal: the last holder of a claim takes it down, and nobody else. | [`model::Claim`], [`attach`] |
//! | A mount or session is shared only where export, credentials, options and access are the same. | [`backend`] |
//! | Any one source that says read-only wins, in the mount or device, the disk and the guest. | [`model::Access`], [`backend`], [`libvirt`] |
//! | A device is shown to a guest after it told its identity itself, fresh; it is gone when it was seen gone. | [`backend::iscsi`], [`backend::nvmeof`] |
//! | A name is not an identity: what was checked is what is plugged. | [`model::Wwid`], [`sys::block`] |
//! | A format is never guessed; an image that names another file is refused. | [`connection`], [`backend`] |
//! | A path on a share is opened beneath its root, without following links. | [`sys::beneath`] |
//! | Secrets are in no argument, environment, log, error or record. | [`model::Secret`] |
//! | Without the word of [`admission`] no work is done; what cannot be decided is refused. | [`admission::Admitted`], [`policy`], [`auth`] |
//! | Each error says what was tried, on what, why it failed, what to do, with a stable reason. | [`model::Reason`], [`api::status`] |
//! | A repeat that fails takes nothing away that worked. | [`attach`] |
//! | It heals without a restart; what needs a hand is told with the command. | [`reconcile`], [`attach::Engine::diagnose`] |

pub mod admission;
pub mod api;
pub mod app;
pub mod attach;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod config;
pub mod connection;
pub mod figures;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod journal;
pub mod libvirt;
pub mod model;
pub mod policy;
pub mod reconcile;
pub mod sys;
