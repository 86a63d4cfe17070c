//go:build !unix

package pki

// syncDir does nothing: folders cannot be synced here.
func syncDir(string) error { return nil }
