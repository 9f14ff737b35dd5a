//! The life of an account's KEKs: states, the floor, destroying, shredding.

use keystrata_primitives::{KekId, KekVersion};

use super::Account;
use crate::{
    engine::states::Use,
    lifecycle::{Change, LifecycleError, Reroot, Rerooted, RewrapScan, ShredPlan, Shredded},
};

/// # Life cycle
///
/// A change holds in this process when its call returns: what it ends was overwritten in memory here. Other processes
/// on the same store obey when they read the account's records again: for sealing within half a minute, for opening within
/// the [TTL](crate::PolicyBuilder::kek_ttl). `docs/lifecycle.md` has the table.
///
/// Every change can be asked for again without harm, and dropping its future is safe: one that has begun goes on.
///
/// ```
/// # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
/// use keystrata_hierarchy::{Change, Context, Hierarchy, KeyError, OpenError};
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// # let (root, store) = (ScriptedRootKey::new("test:root"), MemoryKekStore::new());
/// let keys = Hierarchy::builder().root_key(root).store(store).build()?;
/// let acme = keys.account("acme")?;
/// let sealed = acme.seal(b"x", &Context::none()).await?;
///
/// assert_eq!(acme.open_only().await?, Change::Made); // the contract has ended; an export may still be made
/// assert!(acme.seal(b"y", &Context::none()).await.is_err());
/// assert_eq!(acme.open(&sealed, &Context::none()).await?, b"x");
///
/// assert_eq!(acme.disable().await?, Change::Made); // an attack is suspected
/// let refused = acme.open(&sealed, &Context::none()).await;
/// assert!(matches!(refused, Err(OpenError::Key(KeyError::WrongState { .. }))));
///
/// assert_eq!(acme.enable().await?, Change::Made);
/// assert_eq!(acme.open(&sealed, &Context::none()).await?, b"x");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Account {
    /// Lets the account neither seal nor open until it is [enabled](Self::enable): every version that is not destroyed
    /// becomes disabled. Nothing is lost by it.
    ///
    /// KEKs of other accounts that one of these wraps cannot be got either, and those in memory here are overwritten.
    ///
    /// # Errors
    /// [`KeyError::NoAccount`](crate::KeyError::NoAccount) and [`KeyError::Shredded`](crate::KeyError::Shredded) inside
    /// [`LifecycleError::Key`]; [`LifecycleError::Contended`] if others change the account at the same time. After an
    /// error some versions may be disabled: ask again.
    pub async fn disable(&self) -> Result<Change, LifecycleError> {
        self.engine.allow(&self.state(), None, Use::Nothing, &self.actor).await
    }

    /// Lets the account open and not seal, from whichever state: a tenant who has left and may still fetch what is his.
    ///
    /// Its primary stays its primary, in state retired, so nothing is rotated and no KMS is called. Nothing can be wrapped
    /// by the account's KEKs either: no new service or group member gets a KEK below it.
    ///
    /// # Errors
    /// As [`disable`](Self::disable).
    pub async fn open_only(&self) -> Result<Change, LifecycleError> {
        self.engine.allow(&self.state(), None, Use::OpenOnly, &self.actor).await
    }

    /// Lets the account seal and open again, with every version that is not destroyed: also with one that was
    /// [disabled by itself](Self::disable_version) before.
    ///
    /// # Errors
    /// As [`disable`](Self::disable).
    pub async fn enable(&self) -> Result<Change, LifecycleError> {
        self.engine.allow(&self.state(), None, Use::SealAndOpen, &self.actor).await
    }

    /// [`disable`](Self::disable) for one version. If it is the primary, nothing is sealed for the account until it is
    /// enabled again; what is sealed under other versions opens.
    ///
    /// # Errors
    /// As `disable`; [`KeyError::NotFound`](crate::KeyError::NotFound) if the account has no such KEK, and
    /// [`KeyError::WrongState`](crate::KeyError::WrongState) if it is destroyed.
    pub async fn disable_version(&self, id: KekId) -> Result<Change, LifecycleError> {
        self.engine.allow(&self.state(), Some(id), Use::Nothing, &self.actor).await
    }

    /// [`enable`](Self::enable) for one version.
    ///
    /// # Errors
    /// As [`disable_version`](Self::disable_version).
    pub async fn enable_version(&self, id: KekId) -> Result<Change, LifecycleError> {
        self.engine.allow(&self.state(), Some(id), Use::SealAndOpen, &self.actor).await
    }

    /// Gives up every version below `floor`: none of them opens any more, also if its record comes back from a backup of
    /// its own. It can be raised further and never lowered, so rewrap first what is to be kept.
    ///
    /// # Errors
    /// [`LifecycleError::AbovePrimary`] if the account's primary is below it; else as [`disable`](Self::disable).
    pub async fn set_min_version(&self, floor: KekVersion) -> Result<Change, LifecycleError> {
        self.engine.raise_min_version(&self.state(), floor, &self.actor).await
    }

    /// The time before the first envelope of a rewrap scan is read: keep it for
    /// [`destroy_version`](Self::destroy_version).
    pub fn begin_rewrap_scan(&self) -> RewrapScan {
        RewrapScan { started_at: self.engine.now().real.as_secs() }
    }

    /// Destroys one version for ever: its record stays to say so, without a wrapped secret. What is still sealed under it is
    /// lost.
    ///
    /// Refused until nobody seals under it any more: until the time since it was primary is longer than any process may
    /// go on with the primary that it knows (the TTL and what the policy allows beyond it, at least 30 s), the longest
    /// operation (a stream's time to live, at least 30 s) and a minute for clocks that differ. With the default policy that
    /// is 11 minutes. The policy is this process's: give the one that destroys the longest times of the fleet. `scan` must
    /// have begun after that, since an earlier one can have missed what was sealed meanwhile.
    ///
    /// # Errors
    /// [`LifecycleError::IsPrimary`], [`TooEarly`](LifecycleError::TooEarly), [`ScanTooEarly`](LifecycleError::ScanTooEarly)
    /// and, while another account's KEK is wrapped by it, [`WrapsOthers`](LifecycleError::WrapsOthers);
    /// [`KeyError::NotFound`](crate::KeyError::NotFound) if the account has no such KEK; else as [`disable`](Self::disable).
    pub async fn destroy_version(&self, id: KekId, scan: RewrapScan) -> Result<Change, LifecycleError> {
        self.engine.destroy_version(&self.state(), id, scan, &self.actor).await
    }

    /// What [`shred`](Self::shred) would destroy. Reads, and changes nothing.
    ///
    /// # Errors
    /// [`KeyError::NoAccount`](crate::KeyError::NoAccount) if the path is unknown, or the store does not answer.
    pub async fn shred_plan(&self) -> Result<ShredPlan, LifecycleError> {
        self.engine.shred_plan(self.path()).await
    }

    /// Destroys every KEK of the account **for ever**, and takes its path out of use: nothing that was sealed for it opens
    /// again, and no KEK is made for the path again.
    ///
    /// In this process everything of it is overwritten when this returns, and what its KEKs wrapped below. A load that is
    /// under way brings nothing back. Other processes open what they have the KEK for until its deadline. Backups of the
    /// store are not reached: `docs/lifecycle.md` says what else is not.
    ///
    /// # Errors
    /// [`LifecycleError::WrapsOthers`] while it wraps other accounts' KEKs: reroot or shred those first.
    /// [`KeyError::NoAccount`](crate::KeyError::NoAccount) if the path is unknown, so that a slip of the pen takes no path
    /// out of use.
    pub async fn shred(&self) -> Result<Shredded, LifecycleError> {
        self.engine.shred(&self.state(), &self.actor).await
    }

    /// Brings the wraps of all the account's KEKs, disabled ones too, to what its [`Placement`](crate::Placement) asks for
    /// now: to another root key, into a group or out of one, or to the primary of the parent after that one was rotated. No
    /// envelope changes.
    ///
    /// In two steps, with a deployment between them: [add](Reroot::Add) what is new, while the old place is listed as
    /// [former](crate::Placement::formerly) everywhere; then [retire](Reroot::Retire) what is old. Done already, a step costs
    /// one read and no call; so whatever was interrupted is gone on with by asking again.
    ///
    /// Adding costs, for each KEK, one call for each root key that is to wrap it, and one to unwrap it where the KMS cannot
    /// rewrap by itself. What a parent's KEK wraps or unwraps costs none.
    ///
    /// ```
    /// # use keystrata_hierarchy::{MemoryKekStore, test_util::ScriptedRootKey};
    /// # use std::sync::Arc;
    /// use keystrata_hierarchy::{Context, Hierarchy, Reroot, Roots};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let store = Arc::new(MemoryKekStore::new());
    /// # let [ireland, frankfurt] = ["aws-kms:eu-west-1", "aws-kms:eu-central-1"].map(|id| Arc::new(ScriptedRootKey::new(id)));
    /// # let before = Hierarchy::builder().root_key(Arc::clone(&ireland)).store(Arc::clone(&store)).build()?;
    /// # let sealed = before.account("acme")?.seal(b"x", &Context::none()).await?;
    /// let moving = Roots::builder().current(Arc::clone(&frankfurt)).former(ireland).build()?;
    /// let keys = Hierarchy::builder().roots(moving).store(Arc::clone(&store)).build()?;
    /// assert_eq!(keys.account("acme")?.reroot(Reroot::Add).await?.added, 1);
    /// assert_eq!(keys.account("acme")?.reroot(Reroot::Retire).await?.dropped, 1);
    ///
    /// let moved = Hierarchy::builder().root_key(frankfurt).store(store).build()?;
    /// assert_eq!(moved.account("acme")?.open(&sealed, &Context::none()).await?, b"x");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`LifecycleError::Key`] if a KEK cannot be unwrapped or wrapped, [`TooManyWraps`](LifecycleError::TooManyWraps);
    /// retiring, [`NotAdded`](LifecycleError::NotAdded). The first of them, after all KEKs were tried, unless the KMS or
    /// the store is out of reach. What was done is done.
    pub async fn reroot(&self, step: Reroot) -> Result<Rerooted, LifecycleError> {
        self.engine.reroot(&self.state(), step, &self.actor).await
    }

    /// What [`reroot`](Self::reroot) would do. No call, and nothing is written.
    ///
    /// # Errors
    /// As `reroot`, as far as no key is needed.
    pub async fn reroot_plan(&self, step: Reroot) -> Result<Rerooted, LifecycleError> {
        self.engine.reroot_plan(&self.state(), step).await
    }
}
