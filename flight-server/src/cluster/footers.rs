//! Footers from the node that will read the file, before storage is asked.
//!
//! Whoever plans a dataset needs the footers of all its files, and so does each worker of its own: asked of the owner,
//! storage gives each once, however many nodes plan, and of a small file the owner has the whole then.

use std::sync::Arc;

use jetbridge_cache::key::FileKey;
use jetbridge_cache::page::Peers;
use jetbridge_catalog::membership::View;
use jetbridge_catalog::placement::{FileKey as PlacedFile, SplitLoad};

use super::peers::{PeerPool, PeerReads, Reach};
use super::{Cluster, STAND_INS, Sight};

/// Whom a node asks for footers.
#[derive(Debug)]
pub struct FooterHolders {
    pool: Arc<PeerPool>,
    sight: Arc<Sight>,
}

impl Cluster {
    /// Whom this node asks for footers.
    pub fn footer_holders(&self) -> FooterHolders {
        FooterHolders {
            pool: Arc::clone(&self.peers),
            sight: Arc::clone(&self.sight),
        }
    }
}

impl FooterHolders {
    /// Those that may hold a file's footer; none where that is this node alone.
    pub fn of(&self, file: &FileKey) -> Option<Arc<dyn Peers>> {
        let holders = holders(&self.sight.view.read(), &file.uri);
        PeerReads::among(&self.pool, holders.into(), Reach::Plan)
    }
}

/// The owner of a file's first split, those that stand in for it, and who owned it before.
fn holders(view: &View, uri: &str) -> Vec<String> {
    let first = SplitLoad {
        file: PlacedFile::of_text(uri),
        index: 0,
        bytes: 1,
    };
    let mut holders: Vec<String> = Vec::new();
    let placements = std::iter::once((&view.placement, STAND_INS)).chain(view.earlier.iter().map(|before| (before, 1)));
    for (placement, copies) in placements {
        let assigned = placement.assign(&[first], copies);
        for seat in assigned.owners(0).iter().filter_map(|slot| placement.seat(*slot)) {
            let id = seat.id.as_str();
            if !holders.iter().any(|known| known == id) {
                holders.push(id.to_owned());
            }
        }
    }
    holders
}
