"""The engines that several services share, as promises."""
