package fetch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

const (
	maxRedirects   = 5
	maxHeaderBytes = 64 << 10
)

// closed are networks that no address of the public internet lies in, besides those
// that netip has names for.
var closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// private reports whether an address is none of the public internet.
func private(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return true
	}
	for _, p := range closed {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// allowed reports whether the operator has allowed a private address.
func (o Options) allowed(a netip.Addr) bool {
	for _, p := range o.Private {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// plainKey marks the context of a request that is not encrypted.
type plainKey struct{}

// newClient makes a client that looks at every address which it dials.
func newClient(o Options) *http.Client {
	dialer := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	dialer.ControlContext = func(ctx context.Context, _, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return fmt.Errorf("%w: %s", ErrAddress, address)
		}
		ip := a.Addr()
		if o.allowed(ip) {
			return nil
		}
		if private(ip) {
			return fmt.Errorf("%w: %s is in a private network; allow it with --private-origin if it is yours", ErrAddress, ip)
		}
		if ctx.Value(plainKey{}) != nil {
			return fmt.Errorf("%w: plain http to %s; use https, or allow the network with --private-origin if it is yours", ErrScheme, ip)
		}
		return nil
	}
	bare := net.Dialer{Timeout: dialer.Timeout, KeepAlive: dialer.KeepAlive}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if isProxy(address) { // that the operator has set; it decides what it lets pass
				return bare.DialContext(ctx, network, address)
			}
			return dialer.DialContext(ctx, network, address)
		},
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConnsPerHost:    o.Parallel,
		IdleConnTimeout:        time.Minute,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  o.Stall,
		ExpectContinueTimeout:  time.Second,
	}
	return &http.Client{
		Transport: authorized{transport, o.Token},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("%w: more than %d redirects", ErrProtocol, maxRedirects)
			}
			if via[len(via)-1].URL.Scheme == "https" && req.URL.Scheme != "https" {
				return fmt.Errorf("%w: redirected from https to %s", ErrScheme, req.URL.Scheme)
			}
			return o.checkURL(req.URL)
		},
	}
}

// isProxy reports whether an address to dial is that of the proxy in the environment.
func isProxy(address string) bool {
	for _, scheme := range []string{"https", "http"} {
		proxy, err := http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: scheme, Host: "shoal.invalid"}})
		if err != nil || proxy == nil {
			continue
		}
		port := proxy.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[proxy.Scheme]
		}
		if net.JoinHostPort(proxy.Hostname(), port) == address {
			return true
		}
	}
	return false
}

func (f *Fetcher) checkURL(u *url.URL) error { return f.o.checkURL(u) }

// checkURL refuses what is no address of a web server, and private addresses that are
// written out: behind a proxy nothing is dialled that could be looked at.
func (o Options) checkURL(u *url.URL) error {
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%w: %q; https is fetched", ErrScheme, u.Scheme)
	case u.Hostname() == "":
		return fmt.Errorf("%w: an address without a host", ErrScheme)
	case u.User != nil:
		return fmt.Errorf("%w: an address with a password in it", ErrScheme)
	}
	name := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	if a, err := netip.ParseAddr(name); err == nil && private(a) && !o.allowed(a) {
		return fmt.Errorf("%w: %s is in a private network; allow it with --private-origin if it is yours", ErrAddress, a)
	}
	return nil
}

// authorized gives each server its own token and no other's: a redirect takes none
// along.
type authorized struct {
	http.RoundTripper
	token func(host string) string
}

// RoundTrip sends a request.
func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	if r.URL.Scheme == "http" {
		ctx = context.WithValue(ctx, plainKey{}, true)
	}
	r = r.Clone(ctx)
	r.Header.Del("Authorization")
	if a.token != nil {
		if t := a.token(r.URL.Host); t != "" {
			r.Header.Set("Authorization", "Bearer "+t)
		}
	}
	return a.RoundTripper.RoundTrip(r)
}
