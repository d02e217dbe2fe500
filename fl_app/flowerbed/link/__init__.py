"""The links between server and devices; `fl_link` chooses one, and nothing outside of these folders knows which.

What both need stands here: what travels in a message (`content`), and how a device answers one (`answers`). Each link
is a folder, `stream` and `superlink`. On the server a link is a Flower `Grid`, over which the round loop works; on a
device it hands each message to `answers`.

A grid may have four things beyond Flower's, which the round loop uses where they are: `names` (by node id, the name of
each device by its key or certificate; one that says another is left out), `waits` (True if `pull_messages` returns when
there is something, not at once), `abandon(message_ids)` (no reply to these is wanted any more), and replies with
`arrived` (when, on the monotonic clock).
"""
