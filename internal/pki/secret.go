package pki

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
)

// SecretBytes is the length of a cluster secret.
const SecretBytes = 32

// maxSecretFile bounds what LoadSecret reads: the longest spelling of a secret
// is 64 characters.
const maxSecretFile = 4096

// ErrSecret is wrapped by every error about the text of a cluster secret.
var ErrSecret = errors.New("not a cluster secret")

// Secret is the one value that all nodes of a cluster share. Whoever holds it
// can issue any identity of the cluster and read its gossip. It prints as
// "[hidden]"; Text gives its spelling.
type Secret [SecretBytes]byte

// NewSecret returns a random secret.
func NewSecret() Secret {
	var s Secret
	rand.Read(s[:]) // never fails, by its contract
	return s
}

// ParseSecret reads a secret from one line of text: 64 hexadecimal digits, or
// the base64 of 32 bytes (standard or URL alphabet, padded or not). Errors wrap
// ErrSecret and never repeat the text.
func ParseSecret(text string) (Secret, error) {
	var s Secret
	text = strings.TrimSpace(text)
	if text == "" {
		return s, fmt.Errorf("%w: it is empty", ErrSecret)
	}
	if strings.ContainsAny(text, " \t\r\n") {
		return s, fmt.Errorf("%w: want one line without spaces", ErrSecret)
	}
	raw, err := decodeSecret(text)
	if err != nil {
		return s, err
	}
	if len(raw) != SecretBytes {
		return s, fmt.Errorf("%w: it holds %d bytes, want %d", ErrSecret, len(raw), SecretBytes)
	}
	copy(s[:], raw)
	if s == (Secret{}) {
		return s, fmt.Errorf("%w: all its bytes are zero", ErrSecret)
	}
	return s, nil
}

func decodeSecret(text string) ([]byte, error) {
	if len(text) == hex.EncodedLen(SecretBytes) {
		if raw, err := hex.DecodeString(text); err == nil {
			return raw, nil
		}
	}
	text = strings.TrimRight(text, "=")
	text = strings.NewReplacer("-", "+", "_", "/").Replace(text)
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: want the base64 or the 64 hexadecimal digits of %d bytes", ErrSecret, SecretBytes)
	}
	return raw, nil
}

// Text returns the base64 spelling that ParseSecret reads.
func (s Secret) Text() string { return base64.StdEncoding.EncodeToString(s[:]) }

// Format hides the secret from every verb of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, "[hidden]") }

// LogValue hides the secret from package slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue("[hidden]") }

// LoadSecret reads the secret in the file at path. On Unix it refuses a file
// that other users can read or change, except one that nobody can change: a
// secret that a container runtime mounted (owned by root and without write
// permission, or on a read-only file system).
func LoadSecret(path string) (Secret, error) {
	s, err := loadSecret(path)
	if err != nil {
		return Secret{}, fmt.Errorf("read cluster secret %s: %w", path, err)
	}
	return s, nil
}

func loadSecret(path string) (Secret, error) {
	text, err := ReadPrivate(path)
	if err != nil {
		return Secret{}, err
	}
	if len(text) > maxSecretFile {
		return Secret{}, fmt.Errorf("%w: the file is longer than %d bytes", ErrSecret, maxSecretFile)
	}
	return ParseSecret(string(text))
}

// checkMode is the permission rule of LoadSecret. On systems without Unix
// permissions modes carry no meaning and all pass.
func checkMode(path string, mode fs.FileMode, rootOwned, readOnly bool) error {
	const (
		anyWrite    = 0o222
		groupWrite  = 0o020
		othersWrite = 0o002
		others      = 0o007
	)
	if !unixModes || mode&(others|groupWrite) == 0 {
		return nil
	}
	if mode&(groupWrite|othersWrite) != 0 {
		return fmt.Errorf("other users may change it (mode %04o): run chmod 600 %s", mode.Perm(), path)
	}
	if readOnly || rootOwned && mode&anyWrite == 0 {
		return nil
	}
	return fmt.Errorf("other users may read it (mode %04o): run chmod 600 %s", mode.Perm(), path)
}

// WriteSecret writes the secret to a new file at path that only its owner may
// read (mode 0600). An existing file is never touched: the error is then
// fs.ErrExist.
func WriteSecret(path string, s Secret) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write cluster secret %s: %w", path, withoutPath(err))
	}
	_, err = f.WriteString(s.Text() + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write cluster secret %s: %w", path, errors.Join(withoutPath(err), os.Remove(path)))
	}
	return nil
}

// withoutPath drops the path that a *fs.PathError repeats.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
