//! One caller: what it may do, by the floor in code and by the policy.

use std::sync::Arc;

use super::{Admitted, Grant, Granted, Object};
use crate::model::{Actor, AttachmentId, Identity, Reason, Via, VolumeId};
use crate::policy::{Attributes, Credentials, Policy, Privilege, Rpc, Value, Why};

/// A caller, as one policy sees it.
#[derive(Debug)]
pub struct Caller {
    actor: Actor,
    policy: Arc<Policy>,
    credentials: Credentials,
    /// Whether it is a service alone that may read everything.
    audits: bool,
}

/// Why a caller may not do what it asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The policy's rule says no.
    #[error(
        "the policy does not allow this caller {rule}: a role is missing, or the volume is not its project's"
    )]
    Policy {
        /// The rule of the call.
        rule: &'static str,
        /// Why, for those who run the service.
        why: Why,
    },
    /// Something that the policy's rule depends on cannot be evaluated, such as what a server says that does not answer.
    #[error(
        "the policy's rule {rule} cannot be evaluated, which denies: try again; where that does not help, the log of volattachd \
         says why"
    )]
    Undecided {
        /// The rule of the call.
        rule: &'static str,
        /// Why, for those who run the service.
        why: Why,
    },
    /// Nobody says whose the volume is.
    #[error(
        "the policy does not allow this caller {rule}: nobody who may say so says whose the volume is; call with a \
         service's token too, as control planes do"
    )]
    NotVouched {
        /// The rule of the call.
        rule: &'static str,
    },
    /// The floor.
    #[error(
        "{rule} is for services that call for a user, whatever the policy says: call with a user's token and a service's"
    )]
    ServiceNeeded {
        /// The rule of the call.
        rule: &'static str,
    },
    /// A volume of a service's own.
    #[error("the volume is a service's own: call with a user's token and a service's")]
    ServiceOwned,
    /// Who audits changes nothing.
    #[error("a service that audits, alone, may only read")]
    AuditorReads,
}

impl Denied {
    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::PermissionDenied
    }
}

/// Why a call was let in: what the audit log has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Allowed {
    Rule(Why),
    Audit,
}

/// What no policy can allow, where callers are Keystone's: with a stolen token of a user alone nobody must take a connection away
/// behind a host's back, or have one and its path (OSSA-2023-003). What a user may attach and detach is the policy's to say.
fn needs_service(rpc: Rpc) -> bool {
    match rpc {
        Rpc::ConnectVolume | Rpc::DisconnectVolume | Rpc::ForgetAttachment => true,
        Rpc::AttachVolume
        | Rpc::DetachVolume
        | Rpc::CancelDetach
        | Rpc::GetAttachment
        | Rpc::ListAttachments
        | Rpc::WatchAttachments
        | Rpc::PlanAttach
        | Rpc::GetConnector
        | Rpc::ExtendVolume
        | Rpc::SetIoTune
        | Rpc::GetAttachmentStats
        | Rpc::GetVolumePermissions
        | Rpc::SetVolumePermissions
        | Rpc::Diagnose => false,
    }
}

/// What a service that audits may call.
fn reads(rpc: Rpc) -> bool {
    match rpc {
        Rpc::GetAttachment
        | Rpc::ListAttachments
        | Rpc::WatchAttachments
        | Rpc::GetConnector
        | Rpc::GetAttachmentStats
        | Rpc::GetVolumePermissions
        | Rpc::Diagnose => true,
        // A plan is of a request that would change something.
        Rpc::PlanAttach
        | Rpc::AttachVolume
        | Rpc::DetachVolume
        | Rpc::CancelDetach
        | Rpc::ConnectVolume
        | Rpc::DisconnectVolume
        | Rpc::ExtendVolume
        | Rpc::SetIoTune
        | Rpc::ForgetAttachment
        | Rpc::SetVolumePermissions => false,
    }
}

impl Caller {
    pub(super) async fn new(actor: Actor, policy: Arc<Policy>, audit_role: Option<&str>) -> Self {
        let credentials = policy.credentials(attributes(&actor)).await;
        let audits = actor.user.is_none()
            && actor.service.as_ref().is_some_and(|service| {
                audit_role.is_some_and(|role| service.roles.iter().any(|has| has == role))
            });
        Self {
            actor,
            policy,
            credentials,
            audits,
        }
    }

    /// Whether it is seen by that policy.
    pub(super) fn is_by(&self, policy: &Arc<Policy>) -> bool {
        Arc::ptr_eq(&self.policy, policy)
    }

    /// Who it is.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Whether what it says of a volume counts: whose it is, who may use it. A user alone could say anything, and so could one
    /// whom the policy calls an administrator, as it may call one who only looks.
    #[must_use]
    pub fn may_vouch(&self) -> bool {
        match self.actor.via {
            Via::LocalPeer { .. } | Via::Certificate(_) => true,
            Via::Keystone => self.actor.user.is_some() && self.actor.service.is_some(),
        }
    }

    /// Lets a request in, or does not; and tells so, for the audit. It is about each of `about`, of which there is one at
    /// least: a request about nothing is about nobody's. Where it asks for a privilege, it is about that as well.
    ///
    /// # Errors
    /// Where the caller may not do this to any one of them.
    pub async fn admit<T>(
        self: &Arc<Self>,
        rpc: Rpc,
        privilege: Option<Privilege>,
        about: Vec<Object>,
        request: T,
    ) -> Result<Admitted<T>, Denied> {
        let about = if about.is_empty() {
            vec![Object::default()]
        } else {
            about
        };
        for object in &about {
            let decided = self.decide(rpc, object).await;
            self.tell(rpc.rule(), object, &decided);
            decided?;
            if let Some(privilege) = privilege {
                let decided = self.privileged(privilege, object).await;
                self.tell(privilege.rule(), object, &decided);
                decided?;
            }
        }
        let caller = Arc::clone(self);
        Ok(Admitted {
            grant: Grant(Arc::new(Granted { caller, rpc, about })),
            request,
            deadline: None,
        })
    }

    pub(super) async fn decide(&self, rpc: Rpc, about: &Object) -> Result<Allowed, Denied> {
        if self.actor.user.is_none() {
            return match self.audits && reads(rpc) {
                true => Ok(Allowed::Audit),
                false => Err(Denied::AuditorReads),
            };
        }
        self.by_rule(rpc.rule(), needs_service(rpc), about).await
    }

    /// What a privilege's rule says of a call that its own has let in.
    async fn privileged(&self, privilege: Privilege, about: &Object) -> Result<Allowed, Denied> {
        let needs_service = match privilege {
            Privilege::Force => true,
        };
        self.by_rule(privilege.rule(), needs_service, about).await
    }

    /// What the floor says of a user's call, and then the policy.
    async fn by_rule(
        &self,
        rule: &'static str,
        needs_service: bool,
        about: &Object,
    ) -> Result<Allowed, Denied> {
        let keystone = matches!(self.actor.via, Via::Keystone);
        if keystone && self.actor.service.is_none() {
            if needs_service {
                return Err(Denied::ServiceNeeded { rule });
            }
            if about.owner.service_owned {
                return Err(Denied::ServiceOwned);
            }
        }
        let target = about.target();
        let decision = self.policy.decide(rule, &self.credentials, &target).await;
        match (decision.allowed, decision.why) {
            (true, why) => Ok(Allowed::Rule(why)),
            (false, Why::Rule(_)) if about.owner.project_id.is_none() && !self.may_vouch() => {
                Err(Denied::NotVouched { rule })
            }
            (false, why @ Why::Fault { .. }) => Err(Denied::Undecided { rule, why }),
            (false, why) => Err(Denied::Policy { rule, why }),
        }
    }

    /// Tells of a decision, for the audit.
    fn tell(&self, rule: &str, about: &Object, decided: &Result<Allowed, Denied>) {
        let entry = self.entry(rule, about, decided);
        tracing::info!(
            target: "audit",
            rule = entry.rule,
            user = entry.user,
            service = entry.service,
            volume = entry.volume,
            attachment = entry.attachment,
            domain = entry.domain,
            owner_project = entry.owner_project,
            decision = entry.decision,
            by = entry.by,
            "audit"
        );
    }

    pub(super) fn entry<'a>(
        &self,
        rule: &'a str,
        about: &'a Object,
        decided: &Result<Allowed, Denied>,
    ) -> Entry<'a> {
        let half = |half: &Identity| {
            let project = half.project_id.as_deref().unwrap_or("-");
            format!("{}/{project}", half.user_id)
        };
        let (decision, by) = match decided {
            Ok(Allowed::Rule(why)) => ("allow", why.to_string()),
            Ok(Allowed::Audit) => ("allow", "the audit role".to_owned()),
            Err(Denied::Policy { why, .. } | Denied::Undecided { why, .. }) => {
                ("deny", why.to_string())
            }
            Err(denied) => ("deny", denied.to_string()),
        };
        Entry {
            rule,
            user: self.actor.user.as_ref().map(half),
            service: self.actor.service.as_ref().map(half),
            volume: about.volume.as_ref().map(VolumeId::as_str),
            attachment: about.attachment.as_ref().map(AttachmentId::as_str),
            domain: about.domain.as_deref(),
            owner_project: about.owner.project_id.as_deref(),
            decision,
            by,
        }
    }
}

/// What the audit has of a decision: who, what, on what, the decision, and what made it. Ids alone, never a secret.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    /// The call's.
    rule: &'a str,
    /// `USER/PROJECT`.
    user: Option<String>,
    /// `USER/PROJECT`.
    service: Option<String>,
    volume: Option<&'a str>,
    attachment: Option<&'a str>,
    domain: Option<&'a str>,
    /// The project that the volume belongs to, as far as known.
    owner_project: Option<&'a str>,
    decision: &'static str,
    /// What made it.
    by: String,
}

/// What rules may ask of a caller, as oslo.context names it; docs/policy.md lists it. What is not known is left out.
fn attributes(actor: &Actor) -> Attributes {
    let mut attributes = Attributes::new();
    let roles =
        |half: &Identity| Value::List(half.roles.iter().cloned().map(Value::Text).collect());
    let mut add = |name: String, value: Option<Value>| {
        attributes.extend(value.map(|value| (name, value)));
    };
    let text = |value: &Option<String>| value.clone().map(Value::Text);
    for (half, prefix) in [(&actor.user, ""), (&actor.service, "service_")] {
        let Some(half) = half else { continue };
        add(
            format!("{prefix}user_id"),
            Some(Value::Text(half.user_id.clone())),
        );
        add(
            format!("{prefix}user_domain_id"),
            text(&half.user_domain_id),
        );
        add(format!("{prefix}project_id"), text(&half.project_id));
        add(
            format!("{prefix}project_domain_id"),
            text(&half.project_domain_id),
        );
        add(format!("{prefix}roles"), Some(roles(half)));
    }
    if let Some(user) = &actor.user {
        add("domain_id".to_owned(), text(&user.domain_id));
        let all = user.system.then(|| Value::Text("all".to_owned()));
        add("system_scope".to_owned(), all);
        add(
            "is_admin_project".to_owned(),
            Some(Value::Bool(user.is_admin_project)),
        );
    }
    attributes
}
