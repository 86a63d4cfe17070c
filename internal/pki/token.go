package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
)

// ErrToken is wrapped by every error about the text of a join token.
var ErrToken = errors.New("not a join token")

// TokenSecretBytes is the length of a token's secret: it cannot be guessed.
const TokenSecretBytes = 20

// Token lets one machine join a cluster once. It names the cluster's authority,
// so that a joining machine knows whom it gives the secret; and it names the role
// that the machine gets. It prints without its secret; Text gives all of it.
type Token struct {
	Pin    Pin
	ID     string // names the token; begins with the letter of its role
	Secret [TokenSecretBytes]byte
}

const tokenVersion = "SHOAL1"

// base32Text is the alphabet of tokens: no lower case, no padding.
var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

// tokenIDs are the letter of a role and 35 random bits.
var tokenIDs = regexp.MustCompile(`^[SGCO][A-Z2-7]{7}$`)

// NewToken returns a token with a random id and secret.
func NewToken(authority Pin, role Role) (Token, error) {
	if !slices.Contains(AnyRole(), role) {
		return Token{}, fmt.Errorf("unknown role %q: want one of %v", role, AnyRole())
	}
	t := Token{Pin: authority, ID: strings.ToUpper(string(role[0])) + rand.Text()[:7]}
	rand.Read(t.Secret[:]) // never fails, by its contract
	return t, nil
}

// Text is the spelling that ParseToken reads:
// SHOAL1-AUTHORITY-ID-SECRET, in capital letters and digits.
func (t Token) Text() string {
	return strings.Join([]string{tokenVersion, base32Text.EncodeToString(t.Pin[:]), t.ID, base32Text.EncodeToString(t.Secret[:])}, "-")
}

// ParseToken reads a token, in capital or small letters. Errors wrap ErrToken and
// never repeat the text.
func ParseToken(text string) (Token, error) {
	text = strings.ToUpper(strings.TrimSpace(text))
	parts := strings.Split(text, "-")
	if parts[0] != tokenVersion {
		return Token{}, fmt.Errorf("%w: it does not begin with %s", ErrToken, tokenVersion)
	}
	if len(parts) != 4 {
		return Token{}, fmt.Errorf("%w: it has %d parts, want 4; was all of it copied?", ErrToken, len(parts))
	}
	t := Token{ID: parts[2]}
	pin, err := base32Text.DecodeString(parts[1])
	if err != nil || copy(t.Pin[:], pin) != len(t.Pin) || len(pin) != len(t.Pin) {
		return Token{}, fmt.Errorf("%w: the part that names the authority is damaged", ErrToken)
	}
	secret, err := base32Text.DecodeString(parts[3])
	if err != nil || copy(t.Secret[:], secret) != len(t.Secret) || len(secret) != len(t.Secret) {
		return Token{}, fmt.Errorf("%w: its last part is damaged", ErrToken)
	}
	if !tokenIDs.MatchString(t.ID) {
		return Token{}, fmt.Errorf("%w: its third part is damaged", ErrToken)
	}
	if t.Text() != text { // bits that decode to nothing
		return Token{}, fmt.Errorf("%w: a part of it is damaged", ErrToken)
	}
	return t, nil
}

// Role is the role that the token gives.
func (t Token) Role() Role {
	for _, r := range AnyRole() {
		if strings.EqualFold(string(r[0]), t.ID[:1]) {
			return r
		}
	}
	return ""
}

// Hash is what is kept of the secret where tokens are redeemed. The secret is 160
// random bits, so a plain SHA-256 cannot be turned back.
func (t Token) Hash() [sha256.Size]byte { return sha256.Sum256(t.Secret[:]) }

// Format hides the secret from every verb of package fmt.
func (t Token) Format(f fmt.State, _ rune) { io.WriteString(f, "token "+t.ID) }

// LogValue hides the secret from package slog.
func (t Token) LogValue() slog.Value { return slog.StringValue("token " + t.ID) }
