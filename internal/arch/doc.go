// Package arch holds the tests of the repository itself: who may import whom,
// which names stay in their folders, what every package documents, and what
// must never be committed.
package arch
