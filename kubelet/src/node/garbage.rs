//! Removes images that no container uses, when the disk that holds them is nearly full. After pkg/kubelet/images (1.36).

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use daemon::events::EventType;
use tokio::time::Instant;

use super::eviction::{node_reference, plan::Level};
use crate::{
    pods::shared::Shared,
    runtime::{self, Image},
};

/// When images go, and until when.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub limit: Limit,
    /// An image that was seen first so lately is about to be used.
    pub min_age: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Limit {
    /// Of the disk in percent: above the first until below the second.
    Share { high: u64, low: u64 },
    /// So many bytes are to be free.
    Free(i64),
}

impl Limit {
    /// How many bytes are to be freed; nothing while there is enough.
    fn wanted(&self, level: Level) -> Option<i64> {
        match *self {
            // All of it used is the largest share: never.
            Limit::Share { high: 100.., .. } => None,
            Limit::Share { high, low } => {
                let used = level.capacity - level.available;
                let share = |percent: u64| (level.capacity as f64 * percent as f64 / 100.0) as i64;
                (used >= share(high)).then(|| used - share(low))
            }
            Limit::Free(least) => (level.available < least).then(|| least - level.available),
        }
    }
}

/// When each image was seen first, and used last.
#[derive(Debug, Clone, Copy)]
struct Age {
    first: Option<Instant>,
    used: Option<Instant>,
}

#[derive(Debug)]
pub struct Images {
    sandbox: String,
    policy: Policy,
    ages: HashMap<String, Age>,
    /// Images that were there at the start are old.
    begun: bool,
    failing: bool,
}

impl Images {
    pub fn new(sandbox: String, policy: Policy) -> Self {
        Images {
            sandbox,
            policy,
            ages: HashMap::new(),
            begun: false,
            failing: false,
        }
    }

    /// Frees what is wanted, if anything is.
    pub async fn look(&mut self, shared: &Shared, level: Level) {
        if !self.begun {
            // A failure leaves it to the next look.
            self.begun = self.free(shared, 0).await.is_ok();
        }
        let Some(wanted) = self.policy.limit.wanted(level) else {
            self.failing = false;
            return;
        };
        match self.free(shared, wanted).await {
            Ok(freed) if freed < wanted && !self.failing => {
                self.failing = true;
                let text = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only \
                     found {freed} bytes eligible to free."
                );
                let about = node_reference(&shared.config.node_name);
                shared
                    .recorder
                    .publish(&about, EventType::Warning, "FreeDiskSpaceFailed", text);
            }
            Ok(freed) => tracing::info!(wanted, freed, "unused images were removed"),
            Err(error) => tracing::warn!(%error, "images cannot be removed"),
        }
    }

    /// Every image that nobody uses; how many bytes that frees.
    pub async fn free_all(&mut self, shared: &Shared) -> i64 {
        match self.free(shared, i64::MAX).await {
            Ok(freed) => freed,
            Err(error) => {
                tracing::warn!(%error, "images cannot be removed");
                0
            }
        }
    }

    async fn free(&mut self, shared: &Shared, wanted: i64) -> Result<i64, runtime::Error> {
        let images = shared.runtime.images().await?;
        let containers = shared.runtime.containers(None).await?;
        let mut used: HashSet<String> = HashSet::new();
        for container in containers {
            used.extend(container.image.map(|i| i.image));
            used.extend([container.image_ref, container.image_id]);
        }
        let doomed = self.plan(&images, &used, wanted, Instant::now());
        let mut freed = 0;
        for id in doomed {
            let Some(image) = images.iter().find(|i| i.id == id) else {
                continue;
            };
            match shared.runtime.remove_image(&id).await {
                Ok(()) => freed += i64::try_from(image.size).unwrap_or(i64::MAX),
                Err(error) => tracing::warn!(id, %error, "an image cannot be removed"),
            }
        }
        Ok(freed)
    }

    /// The longest unused first.
    fn plan(&mut self, images: &[Image], used: &HashSet<String>, wanted: i64, now: Instant) -> Vec<String> {
        let begun = self.begun;
        let names = |image: &Image| {
            let all = image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]);
            all.cloned().collect::<Vec<_>>()
        };
        self.ages.retain(|id, _| images.iter().any(|i| i.id == *id));
        let mut free = Vec::new();
        for image in images {
            let age = self.ages.entry(image.id.clone()).or_insert(Age {
                first: begun.then_some(now),
                used: None,
            });
            let names = names(image);
            if names.iter().any(|name| used.contains(name)) {
                age.used = Some(now);
                continue;
            }
            let young = age
                .first
                .is_some_and(|first| now.duration_since(first) < self.policy.min_age);
            if !young && !image.pinned && !names.contains(&self.sandbox) {
                free.push((age.used, age.first, image));
            }
        }
        free.sort_by_key(|(used, first, _)| (*used, *first));
        let mut left = wanted;
        let mut doomed = Vec::new();
        for (.., image) in free {
            if left <= 0 {
                break;
            }
            left = left.saturating_sub(i64::try_from(image.size).unwrap_or(i64::MAX));
            doomed.push(image.id.clone());
        }
        doomed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size: u64) -> Image {
        Image {
            id: id.into(),
            repo_tags: vec![format!("{id}:1")],
            size,
            ..Image::default()
        }
    }

    fn policy(limit: Limit) -> Policy {
        Policy {
            limit,
            min_age: Duration::from_secs(120),
        }
    }

    #[test]
    fn a_half_empty_disk_loses_no_image() {
        let level = |available| Level {
            available,
            capacity: 1000,
        };
        let share = Limit::Share { high: 85, low: 80 };
        assert_eq!(share.wanted(level(151)), None);
        assert_eq!(share.wanted(level(150)), Some(50));
        assert_eq!(Limit::Free(100).wanted(level(100)), None);
        assert_eq!(Limit::Free(100).wanted(level(70)), Some(30));
        assert_eq!(Limit::Share { high: 100, low: 80 }.wanted(level(0)), None);
    }

    #[test]
    fn the_longest_unused_goes_first_and_no_more_than_is_wanted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let all = [image("a", 10), image("b", 10), image("pause", 1), image("used", 5)];
        let mut images = Images::new("pause:1".into(), policy(Limit::Free(1)));
        let using = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<HashSet<_>>();
        assert_eq!(images.plan(&all, &using(&["a:1", "used"]), 0, at(0)), [""; 0]);
        images.begun = true;
        // `b` was never used, `a` was.
        assert_eq!(images.plan(&all, &using(&["used"]), 5, at(10)), ["b"]);
        assert_eq!(images.plan(&all, &using(&["used"]), i64::MAX, at(10)), ["b", "a"]);
        // A new one may be about to be used.
        let more = [image("c", 10), all[0].clone()];
        assert_eq!(images.plan(&more, &using(&[]), i64::MAX, at(20)), ["a"]);
        assert_eq!(images.plan(&more, &using(&[]), i64::MAX, at(150)), ["c", "a"]);
    }
}
