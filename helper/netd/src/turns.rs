//! One turn after the other for each VM: its jail is started and ended without the network's lock, because that takes
//! long. A turn is taken before that lock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use banger_proto::VmId;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// VMs with a turn, or with somebody who waits for one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Rc<RefCell<HashMap<VmId, Arc<Mutex<()>>>>>);

/// Ends when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    vm: VmId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for those who came before.
    pub(crate) async fn take(&self, vm: &VmId) -> Turn {
        Turn {
            turns: self.clone(),
            vm: vm.clone(),
            guard: Some(self.of(vm).lock_owned().await),
        }
    }

    fn of(&self, vm: &VmId) -> Arc<Mutex<()>> {
        self.0.borrow_mut().entry(vm.clone()).or_default().clone()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut all = self.turns.0.borrow_mut();
        if all
            .get(&self.vm)
            .is_some_and(|one| Arc::strong_count(one) == 1)
        {
            all.remove(&self.vm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_one_turn_at_a_time_and_nothing_is_kept_of_it() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let vm = |digit| VmId::try_from(format!("{digit:016}")).unwrap();
        let turns = Turns::default();
        runtime.block_on(async {
            let first = turns.take(&vm(1)).await;
            drop(turns.take(&vm(2)).await);
            let said = RefCell::new(Vec::new());
            let second = async {
                let turn = turns.take(&vm(1)).await;
                said.borrow_mut().push("second");
                drop(turn);
            };
            let end = async {
                tokio::task::yield_now().await;
                said.borrow_mut().push("first ends");
                drop(first);
            };
            tokio::join!(second, end);
            assert_eq!(*said.borrow(), ["first ends", "second"]);
        });
        assert!(turns.0.borrow().is_empty());
    }
}
