//go:build unix

package pki

import (
	"errors"
	"os"
)

// syncDir has the entries of a folder survive a loss of power.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
