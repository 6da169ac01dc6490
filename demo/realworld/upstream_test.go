//go:build linux

package realworld

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// upstream is a server that keeps what it receives, byte for byte. It has one connection for each
// request, so that nothing of an earlier one can be in it.
type upstream struct {
	net.Listener
	next chan struct{} // lets a handler go on

	mu    sync.Mutex
	conns []*recorded
}

// recorded is a connection that is listened to.
type recorded struct {
	net.Conn
	upstream *upstream
	received bytes.Buffer
	closed   bool
}

func startUpstream(t *testing.T) *upstream {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u := &upstream{Listener: listener, next: make(chan struct{})}
	server := &http.Server{Handler: u}
	server.SetKeepAlivesEnabled(false)
	go func() { _ = server.Serve(u) }()
	t.Cleanup(func() { _ = server.Close() })
	return u
}

func (u *upstream) Accept() (net.Conn, error) {
	conn, err := u.Listener.Accept()
	if err != nil {
		return nil, err
	}
	r := &recorded{Conn: conn, upstream: u}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conns = append(u.conns, r)
	return r, nil
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.upstream.mu.Lock()
	defer r.upstream.mu.Unlock()
	if r.received.Len() < 1<<20 { // enough to tell large bodies apart
		r.received.Write(p[:n])
	}
	return n, err
}

func (r *recorded) Close() error {
	r.upstream.mu.Lock()
	defer r.upstream.mu.Unlock()
	r.closed = true
	return r.Conn.Close()
}

// open is the number of connections that are not closed.
func (u *upstream) open() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, conn := range u.conns {
		if !conn.closed {
			n++
		}
	}
	return n
}

// received is what has come since the last call.
func (u *upstream) received(t *testing.T) string {
	t.Helper()
	require.Eventually(t, func() bool { return u.open() == 0 }, 10*time.Second, time.Millisecond, "a connection stays open")
	u.mu.Lock()
	defer u.mu.Unlock()
	all := ""
	for _, conn := range u.conns {
		all += conn.received.String()
	}
	u.conns = nil
	return all
}

// ServeHTTP answers with the body that came, and in special ways on some paths.
func (u *upstream) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	flush := http.NewResponseController(rw).Flush
	switch req.URL.Path {
	case "/events": // one by one
		rw.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(rw, "data: %d\n\n", i)
			_ = flush()
			select {
			case <-u.next:
			case <-req.Context().Done():
				return
			}
		}
	case "/received": // one hint for each five bytes
		five := make([]byte, 5)
		for {
			if _, err := io.ReadFull(req.Body, five); err != nil {
				break
			}
			rw.Header().Set("Link", "</"+string(five)+">; rel=preload")
			rw.WriteHeader(http.StatusEarlyHints)
		}
	case "/trailers":
		rw.Header().Set("Trailer", "X-Announced")
		_, _ = io.WriteString(rw, "body")
		_ = flush()
		rw.Header().Set("X-Announced", "1")
		rw.Header().Set(http.TrailerPrefix+"X-Unannounced", "2")
	case "/headers":
		rw.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
		rw.Header()["Access-Control-Allow-Origin"] = []string{"https://app.example.edu"}
		rw.Header()["Cache-Control"] = []string{"private"}
		rw.Header()["X-Empty"] = []string{""}
		rw.Header()["Server"] = []string{"upstream"}
		rw.Header()["Content-Type"] = nil
		rw.WriteHeader(http.StatusTeapot)
	case "/refuse": // without looking at the body
		http.Error(rw, "no", http.StatusExpectationFailed)
	case "/abort":
		rw.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(rw, "half")
		_ = flush()
		<-u.next
		panic(http.ErrAbortHandler)
	case "/nothing":
		rw.WriteHeader(http.StatusNoContent)
	case "/websocket":
		u.echoMessages(rw, req)
	case "/upload":
		sum := crc32.NewIEEE()
		n, err := io.Copy(sum, req.Body)
		fmt.Fprintln(rw, n, sum.Sum32(), err)
	case "/download":
		_, _ = io.Copy(rw, large())
	default:
		rw.Header().Set("X-Target", req.RequestURI)
		body, err := io.ReadAll(req.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		for name, values := range req.Trailer {
			rw.Header()["X-Came-"+name] = values
		}
		_, _ = rw.Write(body)
	}
}

func (u *upstream) echoMessages(rw http.ResponseWriter, req *http.Request) {
	conn, err := websocket.Accept(rw, req, &websocket.AcceptOptions{InsecureSkipVerify: true}) // of any origin
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(largeMessage + 1)
	for {
		kind, message, err := conn.Read(req.Context())
		if err != nil {
			return
		}
		if err := conn.Write(req.Context(), kind, message); err != nil {
			return
		}
	}
}

const (
	largeBody    = 100 << 20
	largeMessage = 4 << 20
)

// block is repeated in large bodies.
var block = strings.Repeat("0123456789abcdef", 4<<10)

// large is a body of 100 MiB.
func large() io.Reader {
	return io.LimitReader(&repeated{}, largeBody)
}

type repeated struct{ at int }

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, block[r.at:])
	r.at = (r.at + n) % len(block)
	return n, nil
}
