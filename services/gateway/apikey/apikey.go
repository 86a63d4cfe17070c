// Package apikey is the file of a gateway's API keys: who holds one, and what it
// allows. `shoal key` writes it, gateways read it.
//
// A key is 256 random bits, and the file holds its SHA-256 alone. A slow hash, as
// for passwords, would add nothing: there is no list of likely keys to try, and
// trying all 2^256 is out of reach at any speed.
package apikey

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/shoal-llm/shoal/internal/pki"
)

// Limits of a file.
const (
	MaxKeys   = 4096
	maxModels = 64
	maxName   = 64

	// MaxPerMinute bounds what a limit can be.
	MaxPerMinute = 1_000_000_000
)

// prefix begins every key, so that people and scanners of leaked secrets know it.
const prefix = "sk-shoal-"

// Key is one key and what it allows. Zero limits are none.
type Key struct {
	Name     string    `json:"name"`
	Hash     string    `json:"sha256"` // of the key's text, 64 hexadecimal digits
	Hint     string    `json:"hint"`   // its beginning, for people
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires,omitzero"`
	Requests int       `json:"requests_per_minute,omitempty"`
	Tokens   int       `json:"tokens_per_minute,omitempty"` // of prompts and answers together
	Models   []string  `json:"models,omitempty"`            // names or aliases; empty: all
}

// file is what a file holds.
type file struct {
	Keys []Key `json:"keys"`
}

// names are what keys can be called: they are shown in logs and on command lines.
var names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]*$`)

// New makes a key of that name. The text is what its holder gets, and is not kept
// anywhere.
func New(name string, now time.Time) (Key, string, error) {
	var raw [32]byte
	rand.Read(raw[:]) // never fails, by its contract
	text := prefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw[:]))
	sum := sha256.Sum256([]byte(text))
	k := Key{Name: name, Hash: hex.EncodeToString(sum[:]), Hint: text[:len(prefix)+4] + "…", Created: now.UTC().Truncate(time.Second)}
	return k, text, k.Check()
}

// Check reports the first thing that is wrong with a key.
func (k *Key) Check() error {
	sum, err := hex.DecodeString(k.Hash)
	switch {
	case !names.MatchString(k.Name) || len(k.Name) > maxName:
		return fmt.Errorf("name %q: want 1 to %d letters, digits, dots, dashes, underscores or @, a letter or digit first", k.Name, maxName)
	case err != nil || len(sum) != sha256.Size:
		return fmt.Errorf("key %s: sha256 is not 64 hexadecimal digits", k.Name)
	case k.Requests < 0 || k.Requests > MaxPerMinute:
		return fmt.Errorf("key %s: %d requests a minute: want 0 (no limit) to %d", k.Name, k.Requests, MaxPerMinute)
	case k.Tokens < 0 || k.Tokens > MaxPerMinute:
		return fmt.Errorf("key %s: %d tokens a minute: want 0 (no limit) to %d", k.Name, k.Tokens, MaxPerMinute)
	case len(k.Models) > maxModels || slices.Contains(k.Models, ""):
		return fmt.Errorf("key %s: want at most %d models, each with a name", k.Name, maxModels)
	}
	return nil
}

// Sum is the hash in 32 bytes.
func (k *Key) Sum() (sum [sha256.Size]byte) {
	raw, _ := hex.DecodeString(k.Hash) // checked
	copy(sum[:], raw)
	return sum
}

// Expired reports whether the key no longer holds.
func (k *Key) Expired(now time.Time) bool { return !k.Expires.IsZero() && !now.Before(k.Expires) }

// Parse reads a file's text. Members that are not known are refused: a limit that
// is misspelt must not be no limit.
func Parse(text []byte) ([]Key, error) {
	var f file
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the list of keys")
	}
	return f.Keys, check(f.Keys)
}

func check(keys []Key) error {
	if len(keys) > MaxKeys {
		return fmt.Errorf("%d keys, want at most %d", len(keys), MaxKeys)
	}
	name, hash := map[string]bool{}, map[string]bool{}
	for i := range keys {
		k := &keys[i]
		if err := k.Check(); err != nil {
			return err
		}
		if name[k.Name] || hash[k.Hash] {
			return fmt.Errorf("key %s is there twice", k.Name)
		}
		name[k.Name], hash[k.Hash] = true, true
	}
	return nil
}

// Read reads the file at path, which others must not be able to change or read:
// see pki.LoadSecret. The error wraps fs.ErrNotExist where there is none.
func Read(path string) ([]Key, error) {
	text, err := pki.ReadPrivate(path)
	if err == nil {
		var keys []Key
		if keys, err = Parse(text); err == nil {
			return keys, nil
		}
	}
	return nil, fmt.Errorf("read API keys %s: %w", path, err)
}

// Write replaces the file at path, as a whole, readable by its owner alone.
func Write(path string, keys []Key) error {
	if err := check(keys); err != nil {
		return err
	}
	if keys == nil {
		keys = []Key{}
	}
	text, err := json.MarshalIndent(file{keys}, "", " ")
	if err != nil {
		return err
	}
	if err := pki.WritePrivate(path, append(text, '\n')); err != nil {
		return fmt.Errorf("write API keys: %w", err)
	}
	return nil
}
