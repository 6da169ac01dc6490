//go:build linux

package realworld

import (
	"bytes"
	"cmp"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
)

// Two routes to the same service. The names are of the same length, so that they can be exchanged.
const (
	with = "with.example.com" // the plugin
	bare = "bare.example.com"
)

// Entry points without TLS.
const (
	clean = address + ":80" // sanitizePath is on, as by default
	raw   = address + ":81" // and off
)

// TestForwarding sends the same through both routes, and has neither side see a difference.
func TestForwarding(t *testing.T) {
	u := startUpstream(t)
	traefik := startForwarding(t, u, grpcServer(t))
	t.Run("bytes", func(t *testing.T) { compareBytes(t, u) })
	t.Run("paths", func(t *testing.T) { comparePaths(t, u) })
	t.Run("HTTP2", func(t *testing.T) { compareHTTP2(t, u) })
	t.Run("WebSocket", webSocket)
	t.Run("gRPC", grpcStreams)
	t.Run("large bodies", func(t *testing.T) { largeBodies(t, traefik) })
}

// startForwarding starts Traefik with both routes, and a third that differs as the plugin must not.
func startForwarding(t *testing.T, u *upstream, grpcPort string) *traefik {
	t.Helper()
	http1 := container("bare", "Host(`"+bare+"`)", port(t, u),
		"routers.with.rule=Host(`"+with+"`)", "routers.with.middlewares=with",
		"routers.buffered.rule=Host(`buffered.example.com`)", "routers.buffered.middlewares=buffered",
		"middlewares.buffered.buffering.memrequestbodybytes=200000000", "middlewares.buffered.buffering.memresponsebodybytes=200000000")
	for _, option := range everyDocument {
		key, value, _ := strings.Cut(option, "=")
		http1.Labels["traefik.http.middlewares.with.plugin.wellknown."+key] = value
	}
	grpc := container("grpc-bare", "Host(`"+bare+"`) && PathPrefix(`/grpc.testing.`)", grpcPort,
		"routers.grpc-with.rule=Host(`"+with+"`) && PathPrefix(`/grpc.testing.`)", "routers.grpc-with.middlewares=with",
		"services.grpc-bare.loadbalancer.server.scheme=h2c")
	return startTraefik(t, []stack.Container{http1, grpc}, append(tlsFlags, "--entrypoints.clean.address="+clean,
		"--entrypoints.raw.address="+raw, "--entrypoints.raw.http.sanitizepath=false", "--api.debug=true")...)
}

// step is one turn of a conversation.
type step struct {
	next  bool   // let the upstream's handler go on
	send  string // HOST stands for the route's host
	until string // wait for this; the next step's begins after it
}

// request is a conversation of one step.
func request(line, headersAndBody string) []step {
	return []step{{send: line + " HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n" + headersAndBody}}
}

// converse returns all that is received until the other side closes.
func converse(t *testing.T, u *upstream, at, host string, steps []step) string {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	var received bytes.Buffer
	for _, s := range steps {
		if s.next {
			u.next <- struct{}{}
		}
		_, err := io.WriteString(conn, strings.ReplaceAll(s.send, "HOST", host))
		require.NoError(t, err)
		for from, buffer := received.Len(), make([]byte, 4096); !strings.Contains(received.String()[from:], s.until); {
			n, err := conn.Read(buffer)
			received.Write(buffer[:n])
			require.NoError(t, err, "%q does not come after %q", s.until, received.String())
		}
	}
	_, err = io.Copy(&received, conn)
	require.NoError(t, err)
	return received.String()
}

var date = regexp.MustCompile(`Date: .*`)

// masked hides what may differ.
func masked(s, host string) string {
	return strings.ReplaceAll(date.ReplaceAllString(s, "Date: DATE"), host, "HOST")
}

// compare has the conversation on both routes and returns what client and upstream have received.
func compare(t *testing.T, u *upstream, at string, steps []step) (client, server string) {
	t.Helper()
	u.received(t)
	client = masked(converse(t, u, at, bare, steps), bare)
	server = masked(u.received(t), bare)
	assert.Equal(t, client, masked(converse(t, u, at, with, steps), with), "what the client gets")
	assert.Equal(t, server, masked(u.received(t), with), "what the upstream gets")
	return client, server
}

func compareBytes(t *testing.T, u *upstream) {
	const upgrade = "GET /websocket HTTP/1.1\r\nHost: HOST\r\nOrigin: https://app.example.edu\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	for _, c := range []struct {
		name           string
		steps          []step
		client, server string // what is among the bytes received; a case that never arrives would prove nothing
	}{
		{"GET", request("GET /a?b=c&d=%20+;e", "X-Twice: 1\r\nX-Twice: 2\r\nx-lower: \xe4\r\nX-Empty:\r\nCookie: a=1\r\nAuthorization: Bearer b\r\n\r\n"),
			"X-Target: /a?b=c&d=%20+&e\r\n", "X-Twice: 1\r\nX-Twice: 2\r\n"},
		{"HEAD", request("HEAD /a", "\r\n"), "HTTP/1.1 200 OK\r\n", "HEAD /a HTTP/1.1\r\n"},
		{"OPTIONS", request("OPTIONS /_matrix/client/versions", "Origin: https://app.example.edu\r\nAccess-Control-Request-Method: GET\r\n\r\n"),
			"HTTP/1.1 200 OK\r\n", "Access-Control-Request-Method: GET\r\n"},
		{"PUT", request("PUT /a", "Content-Length: 5\r\n\r\nhello"), "\r\n\r\nhello", "\r\n\r\nhello"},
		{"another method", request("PROPFIND /a", "Depth: 1\r\n\r\n"), "HTTP/1.1 200 OK\r\n", "PROPFIND /a HTTP/1.1\r\n"},
		{"HTTP/1.0", []step{{send: "GET /a HTTP/1.0\r\nHost: HOST\r\n\r\n"}}, "HTTP/1.0 200 OK\r\n", "GET /a HTTP/1.1\r\n"},
		{"two on one connection", []step{{send: "GET /a HTTP/1.1\r\nHost: HOST\r\n\r\nGET /nothing HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"}},
			"HTTP/1.1 204 No Content\r\n", "GET /nothing HTTP/1.1\r\n"},
		{"headers of the answer", request("GET /headers", "\r\n"), "HTTP/1.1 418 I'm a teapot\r\n", ""},
		{"no body", request("GET /nothing", "\r\n"), "HTTP/1.1 204 No Content\r\n", ""},
		{"chunks and trailers of the request", request("POST /a", "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n"),
			"\r\n\r\nhello!", "Trailer: X-Sum\r\n"}, // whose value Traefik drops
		{"chunks of the request one by one", []step{
			{send: "POST /received HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", until: "</first>; rel=preload\r\n\r\n"},
			{send: "5\r\nsecon\r\n", until: "</secon>; rel=preload\r\n\r\n"},
			{send: "0\r\n\r\n"},
		}, "HTTP/1.1 200 OK\r\n", "\r\n5\r\nfirst\r\n5\r\nsecon\r\n0\r\n\r\n"},
		{"trailers of the answer", request("GET /trailers", "TE: trailers\r\n\r\n"), "0\r\nX-Announced: 1\r\nX-Unannounced: 2\r\n\r\n", ""},
		{"Expect: 100-continue", []step{
			{send: "POST /a HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", until: "HTTP/1.1 100 Continue\r\n\r\n"},
			{send: "hello"},
		}, "\r\n\r\nhello", "Expect: 100-continue\r\n"},
		{"Expect: 100-continue, refused", request("POST /refuse", "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"),
			"HTTP/1.1 417 Expectation Failed\r\n", "Expect: 100-continue\r\n"},
		{"server-sent events", []step{
			{send: "GET /events HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\nAccept: text/event-stream\r\n\r\n", until: "data: 0\n\n"},
			{next: true, until: "data: 1\n\n"},
			{next: true, until: "data: 2\n\n"},
			{next: true},
		}, "\r\n0\r\n\r\n", ""},
		{"an answer that breaks off", []step{
			{send: "GET /abort HTTP/1.1\r\nHost: HOST\r\n\r\n", until: "\r\n\r\nhalf"},
			{next: true},
		}, "Content-Length: 100\r\n", ""},
		{"WebSocket", []step{
			{send: upgrade, until: "\r\n\r\n"},
			{send: "\x81\x85\x00\x00\x00\x00hello", until: "\x81\x05hello"}, // masked with zeros
			{send: "\x89\x80\x00\x00\x00\x00", until: "\x8a\x00"},           // ping
			{send: "\x88\x82\x00\x00\x00\x00\x03\xe8", until: "\x88\x02\x03\xe8"},
		}, "HTTP/1.1 101 Switching Protocols\r\n", "hello"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, server := compare(t, u, clean, c.steps)
			assert.Contains(t, client, c.client)
			assert.Contains(t, server, c.server)
			assert.NotEmpty(t, server)
		})
	}
}

func comparePaths(t *testing.T, u *upstream) {
	// Traefik itself writes these in another way, at every entry point.
	rewritten := map[string]string{
		"/%2e%2e/a": "/../a", "/a%0d%0ab": "/a%0D%0Ab", "/%7Ea": "/~a", "/ä%C3%A4": "/%C3%A4%C3%A4",
		"/a\\b": "/a%5Cb", `/a"b<c>`: "/a%22b%3Cc%3E", "/a|b^c`": "/a%7Cb%5Ec%60",
	}
	long := "/" + strings.Repeat("long%2F", 600)
	for _, path := range []string{
		"/", "//", "//a//b", "/../a", "/a/../b", "/a/./b", "/a/..", "/a%2Fb", "/%2e%2e/a", "/%23", "/%25", "/%2525", "/%00", "/a%0d%0ab",
		"/a;b=c", "/a,b", "/a:b@c", "/~a", "/%7Ea", "/ä%C3%A4", "/a?", "/a?b#c", "/a??b=%zz", "/a+b%20c", "/a\\b", `/a"b<c>`, "/a|b^c`",
		"/_matrix/client/v3/directory/room/%23a%3Aexample.com", "/_matrix/client/v3/rooms/!a:example.com/state/m.room.member/@b:example.com",
		"/_matrix/media/v3/download/example.com/..%2F..%2Fa", long,
		// All but documents.
		"/.well-known/matrix", "/.well-known/matrix/", "/.well-known/matrix/other", "/.well-known/matrix/server/", "/.well-known/matrix/SERVER",
		"/.well-known/matrix/server%2F", "/.well-known/matrix%2Fserver", "/.well-known%2Fmatrix/client", "/.well-known/matrix/server%00",
	} {
		t.Run(path[:min(len(path), 40)], func(t *testing.T) {
			compare(t, u, clean, request("GET "+path, "\r\n"))
			client, server := compare(t, u, raw, request("GET "+path, "\r\n"))
			arrives := cmp.Or(rewritten[path], path)
			assert.True(t, strings.HasPrefix(server, "GET "+arrives+" HTTP/1.1\r\n"), "%q %q", client, server)
		})
	}
	// These are documents once they are clean.
	for _, path := range []string{"//.well-known/matrix/server", "/.well-known//matrix/server", "/a/../.well-known/matrix/server", "/.well-known/matrix/./client"} {
		t.Run(path, func(t *testing.T) {
			client, server := compare(t, u, raw, request("GET "+path, "\r\n"))
			assert.True(t, strings.HasPrefix(server, "GET "+path+" HTTP/1.1\r\n"), "%q %q", client, server)
		})
	}
}

// compareHTTP2 does so where the client speaks HTTP/2, and compares what that means.
func compareHTTP2(t *testing.T, u *upstream) {
	transport := &http.Transport{ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	exchange := func(t *testing.T, host, method, path, body string) string {
		request, err := http.NewRequestWithContext(t.Context(), method, "https://"+host+path, io.MultiReader(strings.NewReader(body))) // of unknown length
		require.NoError(t, err)
		request.Trailer = http.Header{"X-Sum": {"1"}}
		response, err := transport.RoundTrip(request)
		require.NoError(t, err)
		defer response.Body.Close()
		require.Equal(t, 2, response.ProtoMajor)
		var all bytes.Buffer
		all.WriteString(response.Status + "\r\n")
		require.NoError(t, response.Header.Write(&all))
		for range 3 {
			if path == "/events" {
				line := make([]byte, len("data: 0\n\n"))
				_, err := io.ReadFull(response.Body, line)
				require.NoError(t, err)
				all.Write(line)
				u.next <- struct{}{}
			}
		}
		_, err = all.ReadFrom(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Trailer.Write(&all))
		return all.String()
	}
	for _, c := range []struct{ method, path, body, client, server string }{
		{"GET", "/a?b=c", "", "X-Target: /a?b=c\r\n", "GET /a?b=c HTTP/1.1\r\n"},
		{"GET", "/_matrix/client/v3/directory/room/%23a%3Aexample.com", "", "%23a%3Aexample.com\r\n", "%23a%3Aexample.com HTTP/1.1\r\n"},
		{"POST", "/a", "hello", "hello", "\r\n\r\n5\r\nhello\r\n0\r\n"},
		{"GET", "/trailers", "", "bodyX-Announced: 1\r\nX-Unannounced: 2\r\n", ""},
		{"GET", "/headers", "", "418 I'm a teapot\r\n", ""},
		{"GET", "/events", "", "data: 0\n\ndata: 1\n\ndata: 2\n\n", ""},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			u.received(t)
			client := masked(exchange(t, bare, c.method, c.path, c.body), bare)
			server := masked(u.received(t), bare)
			assert.Equal(t, client, masked(exchange(t, with, c.method, c.path, c.body), with), "what the client gets")
			assert.Equal(t, server, masked(u.received(t), with), "what the upstream gets")
			assert.Contains(t, client, c.client)
			assert.Contains(t, server, c.server)
			assert.NotEmpty(t, server)
		})
	}
}
