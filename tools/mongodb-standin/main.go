// Command mongodb-standin answers MongoDB's wire protocol over a PostgreSQL database.
//
// It is the test runner's last resort where there is no `mongod`: FerretDB v1 embedded as a
// library. What it can and cannot do is written down in docs/testing.md.
//
// MongoDB changes one document at a time atomically. FerretDB v1 finds a document, and then replaces
// it by its _id without another look at the filter, so that of two writers at once the one that must
// not win may win. So it listens on a socket of its own, and writes get there one at a time.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:27017", "`address` to accept MongoDB clients on")
	postgres := flag.String("postgresql-url", "", "`URL` of the PostgreSQL database that keeps the documents")
	verbose := flag.Bool("verbose", false, "log more than warnings")
	flag.Parse()

	if err := run(*listen, *postgres, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "mongodb-standin:", err)
		os.Exit(1)
	}
}

func run(listen, postgres string, verbose bool) error {
	if postgres == "" {
		return errors.New("-postgresql-url is required")
	}

	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}

	folder, err := os.MkdirTemp("", "mongodb-standin-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	socket := filepath.Join(folder, "ferretdb.sock")

	server, err := ferretdb.New(&ferretdb.Config{
		Listener:      ferretdb.ListenerConfig{Unix: socket},
		Logger:        slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		Handler:       "postgresql",
		PostgreSQLURL: postgres,
	})
	if err != nil {
		return err
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		listener.Close()
	}()
	go accept(listener, socket)

	return server.Run(ctx)
}

func accept(listener net.Listener, socket string) {
	var turns turns
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := dial(socket)
			if err != nil {
				return
			}
			defer server.Close()
			// Either side going away ends the conversation.
			_ = turns.converse(client, server)
		}()
	}
}

// dial waits for a server that is only starting.
func dial(socket string) (net.Conn, error) {
	for attempt := 0; ; attempt++ {
		server, err := net.Dial("unix", socket)
		if err == nil || attempt == 100 {
			return server, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// turns lets the writes to one database through one at a time.
type turns struct {
	mutex     sync.Mutex
	databases map[string]*sync.Mutex
}

func (t *turns) of(database string) *sync.Mutex {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.databases == nil {
		t.databases = make(map[string]*sync.Mutex)
	}
	if t.databases[database] == nil {
		t.databases[database] = new(sync.Mutex)
	}
	return t.databases[database]
}

// converse passes requests on and brings the answers back, until one side goes away.
func (t *turns) converse(client, server net.Conn) error {
	for {
		request, err := readMessage(client)
		if err != nil {
			return err
		}
		answers, err := t.ask(server, request)
		if err != nil {
			return err
		}
		if _, err := client.Write(answers); err != nil {
			return err
		}
	}
}

// ask returns when the server has answered. A client that does not read its answer, because it is
// frozen or behind a broken network, so keeps nobody else waiting.
func (t *turns) ask(server net.Conn, request []byte) ([]byte, error) {
	if database, ok := writesTo(request); ok {
		turn := t.of(database)
		turn.Lock()
		defer turn.Unlock()
	}
	if _, err := server.Write(request); err != nil {
		return nil, err
	}
	var answers []byte
	for more := !moreToCome(request); more; {
		answer, err := readMessage(server)
		if err != nil {
			return nil, err
		}
		answers = append(answers, answer...)
		more = moreToCome(answer)
	}
	return answers, nil
}

// The layout of a message: length, request, response, operation, and for an OP_MSG its flags and
// sections, the first of which holds the command.
const (
	headerBytes    = 16
	operationAt    = 12
	flagsAt        = 16
	sectionAt      = 20
	documentAt     = 21
	elementAt      = documentAt + 4
	opMsg          = 2013
	flagMoreToCome = 1 << 1
	maxMessage     = 48_000_000
)

var writes = [][]byte{
	[]byte("insert"), []byte("update"), []byte("delete"), []byte("findAndModify"), []byte("findandmodify"),
}

func readMessage(connection io.Reader) ([]byte, error) {
	header := make([]byte, headerBytes)
	if _, err := io.ReadFull(connection, header); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(header)
	if length < headerBytes || length > maxMessage {
		return nil, errors.New("a message of an impossible length")
	}
	message := append(header, make([]byte, length-headerBytes)...)
	_, err := io.ReadFull(connection, message[headerBytes:])
	return message, err
}

func isMsg(message []byte) bool {
	return len(message) > elementAt && binary.LittleEndian.Uint32(message[operationAt:]) == opMsg
}

func moreToCome(message []byte) bool {
	return isMsg(message) && binary.LittleEndian.Uint32(message[flagsAt:])&flagMoreToCome != 0
}

// writesTo gives the database of a write: of a command whose first key is one of writes.
func writesTo(message []byte) (string, bool) {
	if !isMsg(message) || message[sectionAt] != 0 {
		return "", false
	}
	length := int(binary.LittleEndian.Uint32(message[documentAt:]))
	if length < 0 || documentAt+length > len(message) {
		return "", false
	}
	document := message[documentAt : documentAt+length]
	name, _, _ := bytes.Cut(message[elementAt+1:], []byte{0})
	if !slices.ContainsFunc(writes, func(write []byte) bool { return bytes.Equal(write, name) }) {
		return "", false
	}
	// Drivers put it behind the command's own fields.
	key := []byte("\x02$db\x00")
	at := bytes.LastIndex(document, key)
	if at < 0 || at+len(key)+4 > len(document) {
		return "", true
	}
	database, _, _ := bytes.Cut(document[at+len(key)+4:], []byte{0})
	return string(database), true
}
