//go:build linux

package realworld

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// webSocket talks with the upstream through a library on both ends.
func webSocket(t *testing.T) {
	for _, host := range []string{bare, with} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		conn, _, err := websocket.Dial(ctx, "wss://"+host+"/websocket", nil)
		require.NoError(t, err, host)
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(largeMessage + 1)
		for _, message := range []string{"hello", "", strings.Repeat("x", largeMessage)} {
			require.NoError(t, conn.Write(ctx, websocket.MessageText, []byte(message)))
			_, got, err := conn.Read(ctx)
			require.NoError(t, err)
			require.Equal(t, crc32.ChecksumIEEE([]byte(message)), crc32.ChecksumIEEE(got), host) // megabytes
		}
		require.NoError(t, conn.Close(4001, "enough"), host) // waits for the answer
	}
}

// grpcServer serves the gRPC project's interoperability tests, over HTTP/2 without TLS.
func grpcServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return port(t, listener)
}

// grpcStreams runs those tests. They end the process if they fail.
func grpcStreams(t *testing.T) {
	for _, host := range []string{bare, with} {
		conn, err := grpc.NewClient("dns:///"+host+":443", grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{})))
		require.NoError(t, err)
		defer conn.Close()
		client := testgrpc.NewTestServiceClient(conn)
		for _, test := range []func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
			interop.DoEmptyUnaryCall, interop.DoLargeUnaryCall, interop.DoClientStreaming, interop.DoServerStreaming,
			interop.DoPingPong, // each message is answered before the next is sent
			interop.DoEmptyStream, interop.DoTimeoutOnSleepingServer, interop.DoCancelAfterBegin, interop.DoCancelAfterFirstResponse,
			interop.DoCustomMetadata, interop.DoStatusCodeAndMessage, interop.DoSpecialStatusMessage,
		} {
			test(t.Context(), client)
		}
	}
}

// largeBodies measures by how much Traefik's memory grows while 100 MiB pass.
func largeBodies(t *testing.T, traefik *traefik) {
	sum := crc32.NewIEEE()
	_, err := io.Copy(sum, large())
	require.NoError(t, err)
	upload := func(host string, body io.Reader) string {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+host+"/upload", body)
		require.NoError(t, err)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		return string(answer)
	}
	download := func(host string) (int64, uint32) {
		response, err := http.Get("https://" + host + "/download")
		require.NoError(t, err)
		defer response.Body.Close()
		got := crc32.NewIEEE()
		n, err := io.Copy(got, response.Body)
		require.NoError(t, err)
		return n, got.Sum32()
	}
	const enough = 40 // MiB; it is 100 if the body is kept
	for _, host := range []string{bare, with, "buffered.example.com"} {
		upload(host, strings.NewReader(block))
		up := traefik.growth(t, func() {
			assert.Equal(t, fmt.Sprintln(largeBody, sum.Sum32(), nil), upload(host, large()), host)
		})
		down := traefik.growth(t, func() {
			n, got := download(host)
			assert.EqualValues(t, largeBody, n, host)
			assert.Equal(t, sum.Sum32(), got, host)
		})
		t.Logf("%s: Traefik grows by %d MiB during an upload of 100 MiB, by %d MiB during a download", host, up, down)
		if host == "buffered.example.com" {
			assert.Greater(t, up, enough, "what buffers is not noticed")
			continue
		}
		assert.Less(t, up, enough, host)
		assert.Less(t, down, enough, host)
	}
}

// growth is by how many MiB the resident memory exceeds during do what it was before.
func (r *traefik) growth(t *testing.T, do func()) int {
	t.Helper()
	proc := "/proc/" + strconv.Itoa(r.PID())
	require.NoError(t, os.WriteFile(proc+"/clear_refs", []byte("5"), 0)) // VmHWM becomes VmRSS
	before := memory(t, proc)
	do()
	return memory(t, proc) - before
}

// memory is a process's peak resident memory in MiB.
func memory(t *testing.T, proc string) int {
	t.Helper()
	file, err := os.Open(proc + "/status")
	require.NoError(t, err)
	defer file.Close()
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		if value, ok := strings.CutPrefix(scanner.Text(), "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(value, " kB")))
			require.NoError(t, err)
			return kib / 1024
		}
	}
	t.Fatal("the kernel tells no VmHWM")
	return 0
}
