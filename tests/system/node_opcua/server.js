// A node-opcua server that produces counted values, logs each before a client can see it, and obeys commands on stdin.
//
//   node server.js '{"port":0,"tags":20,"log":"/path/log.jsonl","history":true}'
//
// stdout, one JSON object per line: {"event":"ready","port":…}, {"event":"finished","samples":…}, answers to commands.
// stdin: {"command":"start","rate":200} values per second in all; "stop"; "forget" closes the sessions and deletes the
// subscriptions, as a restarted server would; "counters". It ends when stdin does.
"use strict";
const fs = require("fs");
const readline = require("readline");
const { OPCUAServer } = require("node-opcua-server");
const { Variant, DataType } = require("node-opcua-variant");
const { StatusCodes } = require("node-opcua-status-code");

const options = JSON.parse(process.argv[2]);
const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");

async function main() {
    const server = new OPCUAServer({
        port: options.port,
        hostname: "127.0.0.1",
        allowAnonymous: true,
        serverInfo: { applicationUri: "urn:sluice:tests:node-opcua" },
        serverCertificateManager: undefined,
        serverCapabilities: { maxSessions: 10 },
        buildInfo: { productName: "peer" },
    });
    await server.initialize();
    const space = server.engine.addressSpace;
    const own = space.getOwnNamespace();
    const folder = own.addFolder(space.rootFolder.objects, { browseName: "Plant" });
    const variables = [];
    for (let i = 0; i < options.tags; i++) {
        const variable = own.addVariable({
            componentOf: folder,
            browseName: `T${i}`,
            nodeId: `s=T${i}`,
            dataType: "Double",
            accessLevel: "CurrentRead | HistoryRead",
            userAccessLevel: "CurrentRead | HistoryRead",
            minimumSamplingInterval: 0,
        });
        variable.setValueFromSource({ dataType: DataType.Double, value: -1 });
        if (options.history) space.installHistoricalDataNode(variable, { maxOnlineValues: 5000 });
        variables.push(variable);
    }
    await server.start();
    const log = fs.openSync(options.log, "a");
    let samples = 0;
    let timer = null;
    let last = 0;

    function produce() {
        // One row: every variable changes, all at one time that no other row has.
        const now = Math.max(Date.now(), last + 1);
        last = now;
        const rows = variables.map((_, i) => ({ tag: `T${i}`, time_ms: now, value: samples + i + 0.5 }));
        fs.writeSync(log, rows.map((row) => JSON.stringify(row) + "\n").join(""));
        variables.forEach((variable, i) => {
            const value = new Variant({ dataType: DataType.Double, value: rows[i].value });
            variable.setValueFromSource(value, StatusCodes.Good, new Date(now));
        });
        samples += variables.length;
    }

    const commands = {
        start: ({ rate }) => {
            timer = setInterval(produce, (1000 * variables.length) / rate);
            say({ event: "started" });
        },
        stop: () => {
            clearInterval(timer);
            say({ event: "finished", samples });
        },
        forget: () => {
            for (const session of Object.values(server.engine._sessions)) {
                server.engine.closeSession(session.authenticationToken, true, "Forcing");
            }
            say({ event: "forgotten" });
        },
        counters: () => {
            const engine = server.engine;
            say({ event: "counters", samples, sessions: engine.currentSessionCount, subscriptions: engine.currentSubscriptionCount,
                cumulated_sessions: engine.cumulatedSessionCount, cumulated_subscriptions: engine.cumulatedSubscriptionCount });
        },
    };
    say({ event: "ready", port: server.endpoints[0].port, endpoint: server.getEndpointUrl() });
    const lines = readline.createInterface({ input: process.stdin });
    for await (const line of lines) {
        const message = JSON.parse(line);
        commands[message.command](message);
    }
    process.exit(0);
}

main().catch((error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exit(1);
});
