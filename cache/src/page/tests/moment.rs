//! The moment in which what came is not kept yet.

use std::time::Duration;

use super::*;

#[tokio::test]
async fn what_waits_to_be_kept_is_found_and_kept_at_the_end() {
    let disk = Arc::new(Stuck::default());
    let f = fixture(2_550, Arc::clone(&disk) as Arc<dyn PageStore>, config()).await;
    assert_eq!(f.read(&[150..450]).await, Source::Store);
    assert_eq!(disk.bytes(), 0, "a small piece is not kept at once");
    // For readers, also for those who want more, and for peers.
    assert_eq!(f.read(&[150..450]).await, Source::Disk);
    assert_eq!(f.read(&[420..700]).await, Source::Store);
    assert_eq!(f.fetched(), [100..500, 500..700]);
    let held = f.tier.read_held(&f.file.key, 120..650).await;
    assert_eq!(held.unwrap(), f.expected(&(120..650)));
    assert_eq!(f.tier.read_held(&f.file.key, 120..750).await, None);
    f.tier.settle().await;
    assert_eq!((disk.bytes(), f.tier.arriving()), (600, vec![]));
    // From then on nothing waits.
    f.read(&[900..1_000]).await;
    f.tier.settle().await;
    assert_eq!(disk.bytes(), 700);
}

#[tokio::test]
async fn what_waits_is_not_kept_where_its_file_is_removed_meanwhile() {
    let disk = Arc::new(Stuck::default());
    let f = fixture(2_550, Arc::clone(&disk) as Arc<dyn PageStore>, config()).await;
    f.read(&[150..450]).await;
    f.tier.remove_file(f.file.key.id()).await;
    // Nor is it found any more: whoever reads now reads anew, and has that kept.
    assert_eq!(f.tier.read_held(&f.file.key, 150..450).await, None);
    assert_eq!(f.read(&[150..300]).await, Source::Store);
    f.tier.settle().await;
    assert_eq!((disk.bytes(), f.fetched()), (200, vec![100..500, 100..300]));
}

#[tokio::test]
async fn it_is_kept_without_being_told_to() {
    let disk = Arc::new(Stuck::default());
    let f = fixture(2_550, Arc::clone(&disk) as Arc<dyn PageStore>, config()).await;
    f.read(&[150..450]).await;
    while disk.bytes() < 400 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(f.fetched(), [100..500]);
}
