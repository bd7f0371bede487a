// The node-opcua client as a collector: a group of monitored items, JSON batches to MQTT with mqtt.js.
// See collector_bench.py.
//
//     node node_client.js <endpoint> <items> <broker's port> <folder for its certificates>
//
// Values go out as JSON arrays of up to 500, or every 100 ms: one message per value would cost it several times as much.
"use strict";

const opcua = require("node-opcua-client");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const mqtt = require("mqtt");

const BATCH = 500;
const EVERY = 100;
const AT_ONCE = 1000;

async function main(endpoint, items, port, folder) {
    const broker = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { queueQoSZero: false });
    const certificates = new OPCUACertificateManager({
        rootFolder: folder,
        automaticallyAcceptUnknownCertificate: true,
    });
    await certificates.initialize();
    const client = opcua.OPCUAClient.create({
        applicationName: "bench",
        endpointMustExist: false,
        clientCertificateManager: certificates,
        securityMode: opcua.MessageSecurityMode.None,
        securityPolicy: opcua.SecurityPolicy.None,
        connectionStrategy: { maxRetry: 3 },
        transportTimeout: 120000,
    });
    await client.connect(endpoint);
    const session = await client.createSession();
    const subscription = await session.createSubscription2({
        requestedPublishingInterval: 33,
        requestedMaxKeepAliveCount: 100,
        requestedLifetimeCount: 10000,
        maxNotificationsPerPublish: 0,
        publishingEnabled: true,
        priority: 1,
    });
    let batch = [];
    const flush = () => {
        if (batch.length > 0) {
            broker.publish("bench/node-opcua", JSON.stringify(batch), { qos: 0 });
            batch = [];
        }
    };
    for (let start = 0; start < items; start += AT_ONCE) {
        const wanted = [];
        for (let number = start + 1; number <= Math.min(items, start + AT_ONCE); number++) {
            wanted.push({ nodeId: `ns=1;i=${number}`, attributeId: opcua.AttributeIds.Value });
        }
        const names = wanted.map((one) => one.nodeId);
        const group = opcua.ClientMonitoredItemGroup.create(
            subscription,
            wanted,
            { samplingInterval: 33, queueSize: 100, discardOldest: true },
            opcua.TimestampsToReturn.Both,
        );
        group.on("changed", (item, dataValue, index) => {
            batch.push({
                n: names[index],
                t: dataValue.sourceTimestamp.getTime(),
                q: dataValue.statusCode.value,
                v: dataValue.value.value,
            });
            if (batch.length >= BATCH) {
                flush();
            }
        });
        await new Promise((resolve, reject) => {
            group.once("initialized", resolve);
            group.once("err", (message) => reject(new Error(message)));
        });
    }
    setInterval(flush, EVERY);
}

const [endpoint, items, port, folder] = process.argv.slice(2);
main(endpoint, parseInt(items), parseInt(port), folder).catch((error) => {
    console.error(error);
    process.exit(1);
});
